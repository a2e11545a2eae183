"""The only file that knows every other: builds the parts from the settings and joins them.

A part that brings a large library (a network stack, image processing) is imported where it is built: a command that needs none of
it starts in half the time.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import ValidationError
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from config import Settings
from node import log
from node.audit import Action, AuditEvent, Event, Outcome, Type
from node.bundle import Bundle
from node.destinations.interface import Destination
from node.domain import Channel, CleanUid, Origin, Study
from node.errors import InstanceUnreadable, NodeError, NothingToDo, RevealRefused, RulesInvalid, SettingsInvalid
from node.identified.arrivals import Arrivals
from node.identified.boxes import Box
from node.identified.by_hand import DecisionsByHand
from node.identified.clean_uids import CleanUids
from node.identified.defacing import Faces
from node.identified.deidentifier import Deidentifier, pixel_counts
from node.identified.deliveries import Deliveries, Refusals
from node.identified.delivery import Outbox
from node.identified.folders import Folders
from node.identified.identities import Identities
from node.identified.keys import Keyring, read_master_key
from node.identified.looking import Looker
from node.identified.looking_apart import LookingApart
from node.identified.marks import METHOD
from node.identified.profile import OPTION_CODES, Options, Profile
from node.identified.profile import table as deidentification_table
from node.identified.proof import PROOF, Checked, Prover, SigningKey, is_signed, public_key, signer_of, verify
from node.identified.proof import read as read_proof
from node.identified.quarantine import Quarantine
from node.identified.regions import DeviceRegion, boxes_of
from node.identified.reidentifier import Reidentifier
from node.identified.results import Results
from node.identified.reveal import Answer, Request, Reveal
from node.identified.reveal import checked as checked_reason
from node.identified.rotation import Rotated, Rotation, counted, write_key
from node.identified.rotation import made as new_master_key
from node.identified.second_look import SecondLook
from node.identified.spool import spool
from node.identified.tombstones import Tombstones
from node.identified.vault import Vault, VaultWriter
from node.ledger.database import open_identified, open_ledger, sqlite_url
from node.ledger.shown import Proven
from node.pipelines.interface import Pipeline
from node.registry import Registry
from node.router import Needs, RuleSet, read_rules
from node.runners.interface import Runner

if TYPE_CHECKING:
    from node import scp
    from node.identified.intake import Intake
    from node.identified.orthanc_source import OrthancSource
    from node.identified.review import Review
    from node.ledger.cards import Cards
    from node.ledger.decisions import Decisions
    from node.ledger.jobs import Jobs
    from node.ledger.probes import Probes
    from node.ledger.reception import Reception
    from node.ledger.tokens import Tokens
    from node.ledger.trail import Trail
    from node.ledger.versions import VersionDecisions
    from node.shelf import Shelf
    from node.viewing.light_box import LightBox

_log = log.get(__name__)

BRAIN_MASK = "brain_mask"  #: the bundle that finds brains in MR and PET
NO_RULES = RuleSet(rules=(), text="")


def now() -> datetime:
    """The clock of the node."""
    return datetime.now(UTC)


def os_user() -> str:
    """The user that the operating system runs this process for: by its number, since a name in the environment is anybody's."""
    try:
        return f"os:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"os:{os.getuid()}"


class House:
    """Every part of a node, built when it is first asked for. A worker asks for nothing of the wing, so nothing of it is built."""

    def __init__(
        self, settings: Settings, *, known_destinations: Collection[str] | None = None, decided: VersionDecisions | None = None
    ) -> None:
        self.settings = settings
        self._decided = decided  #: another house's decisions about versions: what is active there is active here, without its shadows
        self._known_destinations = settings.destinations if known_destinations is None else known_destinations
        self.identified = settings.data_dir / "identified"
        self.clean = settings.data_dir / "clean"
        self.studies, self.results = self.clean / "studies", self.clean / "results"

    # --- the clean side -----------------------------------------------------------------------------------------------------
    @cached_property
    def ledger(self) -> Engine:
        self.clean.mkdir(parents=True, exist_ok=True)
        return open_ledger(self.settings.database.url or sqlite_url(self.clean / "ledger.sqlite"))

    @property
    def has_ledger(self) -> bool:
        """Whether this node has begun to work: asking makes no file."""
        return bool(self.settings.database.url) or (self.clean / "ledger.sqlite").exists()

    @cached_property
    def jobs(self) -> Jobs:
        from node.ledger.jobs import Jobs

        return Jobs(self.ledger, now, clean_folder=self.clean)

    @cached_property
    def decisions(self) -> Decisions:
        from node.ledger.decisions import Decisions

        return Decisions(self.ledger, now)

    @cached_property
    def probes(self) -> Probes:
        from node.ledger.probes import Probes

        return Probes(self.ledger, now)

    @cached_property
    def trail(self) -> Trail:
        from node.ledger.trail import Head, Trail, key_of

        self.identified.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Trail(self.ledger, now, head=Head(self.identified / "audit.head", key_of(self.identified / "audit.key")))

    @cached_property
    def tokens(self) -> Tokens:
        from node.ledger.tokens import Tokens

        return Tokens(self.ledger, clock=now)

    @cached_property
    def reception(self) -> Reception:
        """People who may sign in, and who is signed in."""
        from node.ledger.people import People
        from node.ledger.reception import Reception
        from node.ledger.sessions import Sessions

        chosen = self.settings.web.sign_in
        people = People(self.ledger, now, max_failures=chosen.max_failures, lock_s=chosen.lock_minutes * 60)
        sessions = Sessions(self.ledger, now, idle_s=chosen.idle_minutes * 60, longest_s=chosen.longest_hours * 3600)
        return Reception(people, sessions, self.trail.record)

    @cached_property
    def cards(self) -> Cards:
        from node.ledger.cards import Cards

        return Cards(self.ledger)

    @cached_property
    def light_box(self) -> LightBox:
        """Pictures of results, of the clean side only."""
        from node.viewing.light_box import Exposed, LightBox

        def exposed(id: str) -> Exposed | None:
            job = self.jobs.get(id)
            if job is None:
                return None

            def sites() -> list[str]:
                return [str(one.get("site")) for one in (self.jobs.summary_of(id) or {}).get("findings") or ()]

            return Exposed(job=job, objects=self.jobs.objects_of(job), sites=sites)

        return LightBox(exposed)

    # --- models and rules ---------------------------------------------------------------------------------------------------
    @cached_property
    def pipelines(self) -> Registry[Pipeline]:
        """The pipelines that have code."""
        return Registry("node.pipelines", Pipeline)  # type: ignore[type-abstract]

    @cached_property
    def shelf(self) -> Shelf:
        """The installed versions of every pipeline, and which of them run."""
        from node.ledger.versions import VersionDecisions
        from node.shelf import Shelf

        return Shelf(
            self.settings.bundles_dir,
            self._decided or VersionDecisions(self.ledger, now),
            lambda event: self.trail.record(event),
            may_run=self._may_run,
            alone=self._decided is not None,
        )

    def bundle_folders(self) -> list[Path]:
        """`<pipeline>/<version>` below the bundles' folder, the newest version of a pipeline last."""
        from node.shelf import folders_in

        return folders_in(self.settings.bundles_dir)

    @property
    def bundles(self) -> Mapping[str, Bundle]:
        """The active version of every pipeline that has code and an intact bundle, and of every bundle that dropped in."""
        return self.shelf.active()

    def _may_run(self, pipeline: str, bundle: Bundle) -> bool:
        """Whether the node has code for a bundle of that pipeline, or it dropped in and is allowed."""
        if not bundle.sidecar:
            return pipeline in self.pipelines
        from node.guests import allowed

        try:
            allowed.check(bundle)
        except NodeError as why:
            _log.error("a bundle is left out", extra={"pipeline": pipeline, "because": str(why)})
            return False
        return True

    def kind_of(self, pipeline: str, bundle: Bundle) -> type[Pipeline]:
        """What runs the bundle: its pipeline's code, or that for any bundle that dropped in."""
        from node.pipelines._any_bundle import kind_of

        return kind_of(bundle) if bundle.sidecar else self.pipelines[pipeline]

    def note_bundle(self, name: str, version: str, digest: str) -> None:
        """A model that brings its own code was let in: the trail says who did it."""
        self.trail.record(
            AuditEvent(
                event=Event.SECURITY_ALERT,
                type=Type.SOFTWARE_CONFIGURATION,
                action=Action.CREATE,
                who=os_user(),
                what=f"{name} {version}: added",
                facts={"digest": digest},
            )
        )

    @property
    def needs(self) -> Mapping[str, Needs]:
        """What each pipeline takes, for the router's guards."""
        return {
            name: Needs(
                takes=self.kind_of(name, bundle).takes,
                modalities=tuple(bundle.intended_use.get("modality", ())),
                min_slices=int(bundle.intended_use.get("min_slices", 1)),
            )
            for name, bundle in self.bundles.items()
        }

    @property
    def rules(self) -> RuleSet:
        """The rules as the file has them now. A file that became invalid is not used: the last good rules stay."""
        path = self.settings.rules
        if path is None:
            return NO_RULES
        changed = path.stat().st_mtime_ns if path.exists() else -1
        if changed != self._rules_read_at:
            self._rules_read_at = changed
            try:
                self._rules = read_rules(path, pipelines=self.needs, destinations=self._known_destinations)
            except RulesInvalid as why:
                if self._rules is None:
                    raise
                _log.error("the rules file is not used, the rules before it stay", extra={"because": str(why)})
        return self._rules or NO_RULES

    _rules: RuleSet | None = None
    _rules_read_at = -2

    # --- the wing -----------------------------------------------------------------------------------------------------------
    @cached_property
    def wing(self) -> Engine:
        self.identified.mkdir(parents=True, exist_ok=True, mode=0o700)
        return open_identified(self.settings.database.identified_url or sqlite_url(self.identified / "identified.sqlite"))

    @cached_property
    def keyring(self) -> Keyring:
        ring = Keyring(self.wing, self.master_key(), read_again=self.master_key, tombstones=self.tombstones)
        if back := self.tombstones.keys_back(self.wing):
            _log.warning("keys of purged studies came back, as with a restored backup, and are deleted again", extra={"studies": len(back)})
            ring.shred(*back)
            for study in back:
                again = "purged again: its key had come back"
                self.trail.record(AuditEvent(event=Event.STUDY_DELETED, action=Action.DELETE, study=study, what=again))
        return ring

    @cached_property
    def tombstones(self) -> Tombstones:
        return Tombstones(self.settings.vault.tombstones_file or self.identified / "purged.log", now)

    def studies_back(self) -> list[CleanUid]:
        """Purged studies that the identified database knows of again: what a restored backup brought."""
        return self.tombstones.studies_back(self.wing)

    def master_key(self) -> bytes:
        """The master key as the settings give it now: a file may hold another one than before."""
        vault = self.settings.vault
        secret = vault.master_key.get_secret_value() if vault.master_key else None
        return read_master_key(vault.master_key_file, secret, self.identified / "master.key")

    def rotate_keys(self, new_key_file: Path | None, progress: Callable[[int, int], None]) -> Rotated:
        """Give the wing another master key while the node runs, or carry on with a rotation that was interrupted.

        The default key file is replaced here; any other place the administrator changes, and calls this once more.
        """
        rotation = Rotation(self.wing, self.keyring.masters)
        default = not (self.settings.vault.master_key or self.settings.vault.master_key_file)
        if not rotation.under_way:
            if new_key_file is None and not default:
                raise SettingsInvalid("the master key comes from the settings: give the new one with --new-key-file")
            rotation.begin(read_master_key(new_key_file, None, new_key_file) if new_key_file else new_master_key())
        done = rotation.carry_on(progress)
        while done is not None and not done.finished:
            if default and self.master_key() != rotation.new_key():
                write_key(self.identified / "master.key", rotation.new_key())
            if self.master_key() != rotation.new_key():
                break
            done = replace(done, finished=rotation.finish())
            if not done.finished:
                rotation.carry_on(progress)
        if done is None:
            raise NodeError("there is nothing to rotate")
        self.trail.record(
            AuditEvent(
                event=Event.SECURITY_ALERT,
                type=Type.SOFTWARE_CONFIGURATION,
                action=Action.UPDATE,
                who=os_user(),
                what="master key changed" if done.finished else "master key: the new one waits for the settings",
                facts={"old": str(done.old), "new": str(done.new), "rewrapped": str(done.rewrapped)},
            )
        )
        return done

    def key_generations(self) -> list[dict[str, object]]:
        """Generations of the master key, and how many keys each wraps."""
        _ = self.keyring
        return counted(self.wing)

    @cached_property
    def clean_uids(self) -> CleanUids:
        return CleanUids(self.keyring.site_key("uids"))

    @cached_property
    def vault(self) -> Vault:
        return Vault(self.identified / "vault", self.keyring, self.settings.vault.segment_mb << 20)

    @cached_property
    def intake(self) -> Intake:
        from node.identified.intake import Intake

        intake = self.settings.intake
        return Intake(
            self.wing,
            self.vault,
            self.keyring,
            self.clean_uids,
            settle_after_s=intake.settle_after_s,
            settle_complete_after_s=intake.settle_complete_after_s,
            is_ours=self.jobs.is_ours,
            clock=now,
        )

    @cached_property
    def identities(self) -> Identities:
        return Identities(self.wing, self.keyring)

    @cached_property
    def profile(self) -> Profile:
        chosen = self.settings.deidentification
        return Profile(
            Options(
                clean_pixel_data=chosen.clean_pixel_data,
                clean_graphics=chosen.clean_graphics,
                clean_structured_content=chosen.clean_structured_content,
                clean_descriptors=chosen.clean_descriptors,
                retain_full_dates=chosen.full_dates,
                retain_modified_dates=chosen.modified_dates,
                retain_patient_characteristics=chosen.retain_patient_characteristics,
                retain_device_identity=chosen.retain_device_identity,
                retain_uids=chosen.retain_uids,
                retain_safe_private=chosen.retain_safe_private,
                retain_institution_identity=chosen.retain_institution_identity,
                cap_ages=chosen.cap_ages,
            )
        )

    @cached_property
    def deidentifier(self) -> Deidentifier:
        self._names_stay_out()
        return Deidentifier(
            self.profile,
            self.clean_uids,
            self.identities,
            self.studies,
            unflagged=self.settings.deidentification.unflagged_pixels,
            looker=self.looker,
            by_hand=self.decisions_by_hand.of,
            faces=self.faces,
            prover=self.prover,
        )

    @cached_property
    def signing_key(self) -> SigningKey:
        """Made once for this site, sealed by the master key."""
        return SigningKey(self.keyring.site_key("signing"))

    @cached_property
    def prover(self) -> Prover | None:
        """Searches what leaves for all that identifies, and signs for it."""
        if not self.settings.deidentification.leak_scan:
            return None
        seed = self.keyring.site_key("signing")
        again = SecondLook(self.looker) if self.looker else None
        return Prover(partial(SigningKey, seed), edition=METHOD[1], options=self.profile.options.names, read_text=again, clock=now)

    def proofs(self) -> dict[CleanUid, Path]:
        """The report of each proven study, at its latest revision."""
        found = sorted(self.studies.glob(f"*/r*/{PROOF}"), key=lambda path: int(path.parent.name[1:]))
        return {CleanUid(path.parents[1].name): path for path in found}

    def proof_of(self, study: CleanUid) -> Proven | None:
        """The latest report of a study, and whether its signature holds; the files that it names are not read. None: there is none."""
        revisions = sorted((self.studies / study).glob(f"r*/{PROOF}"), key=lambda path: int(path.parent.name[1:]))
        if not revisions:
            return None
        report = read_proof(revisions[-1])
        scan = report.get("leak_scan") or {}
        return Proven(
            made_at=str(report.get("made_at", "")),
            revision=int(report.get("revision", 0)),
            instances=int(report.get("instances", 0)),
            hits=int(scan.get("hits", 0)),
            signature="good" if is_signed(report, self.signing_key.public) else "bad",
            signer=signer_of(report),
            done=report.get("done") or {},
            leak_scan=scan,
            profile=report.get("profile") or {},
        )

    def check_proof(self, path: Path, pem: bytes | None = None) -> Checked:
        """Whether a report is signed with that public key, or else this site's, and its files are those it names."""
        return verify(path, public_key(pem) if pem else self.signing_key.public)

    @cached_property
    def faces(self) -> Faces:
        models = [folder for folder in self.bundle_folders() if folder.parent.name == BRAIN_MASK]
        return Faces(self.settings.deidentification.recognizable_features, models[-1] if models else None)

    def _names_stay_out(self) -> None:
        """In the hall a study is known by its clean UID: rules, jobs, results and the way home rest on it."""
        if self.settings.deidentification.retain_uids:
            raise SettingsInvalid(
                "deidentification.retain_uids is for `radnode deidentify` only: a node tells studies apart by their clean UIDs; set it to false"
            )

    @cached_property
    def looker(self) -> LookingApart | None:
        """Who looks for text in pixels; None when the settings switch that off."""
        chosen = self.settings.deidentification
        if chosen.text_detection == "off":
            return None
        devices = tuple(DeviceRegion(**{**dict(device), "boxes": boxes_of(device.boxes)}) for device in chosen.device_regions)
        return LookingApart(Looker(text_detection=chosen.text_detection, devices=devices))

    @cached_property
    def decisions_by_hand(self) -> DecisionsByHand:
        return DecisionsByHand(self.wing, now)

    @cached_property
    def reidentifier(self) -> Reidentifier:
        return Reidentifier(self.identities)

    def folders(self, *, workers: int = 1) -> Folders:
        """Whole folders through this node's vault."""
        return Folders(
            self.wing,
            self.identities,
            self.keyring,
            self.identified / "folders",
            profile=self.profile,
            clean_uids=self.clean_uids,
            unflagged=self.settings.deidentification.unflagged_pixels,
            faces=self.faces,
            looker=self.looker,
            workers=workers,
            prover=self.prover,
        )

    def reidentify_folder(self, source: Path, target: Path, progress: Callable[[int, int], None], reason: str = "") -> dict[str, Any]:
        """Names for a whole folder: a restricted function, written down before it is used (PS3.15 A.5.3.11).

        Raises
        ------
        RevealRefused
            A second person must approve first; says which request waits.
        """
        who = os_user()
        reason = checked_reason(reason) if reason or self.settings.reidentification.approval != "none" else ""
        digest = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:32]  # a path may name the patient
        if waiting := self.reveal.waits(digest, "reidentify", who=who, reason=reason):
            raise RevealRefused(f"request {waiting.id} waits for another person: `radnode reveal approve {waiting.id}`, then ask again")
        self.trail.record(
            AuditEvent(
                event=Event.SECURITY_ALERT,
                type=Type.USE_OF_RESTRICTED_FUNCTION,
                action=Action.EXECUTE,
                who=who,
                what="re-identification of a folder",
                facts={"reason": reason} if reason else {},
            )
        )
        return self.folders().reidentify(source, target, progress)

    @cached_property
    def reveal(self) -> Reveal:
        """Who is this? Asked with a reason, answered once it is written down."""
        chosen = self.settings.reidentification
        valid_for = timedelta(hours=chosen.valid_hours)
        return Reveal(self.wing, self.identities, self.trail.record, approval=chosen.approval, valid_for=valid_for, now=now)

    def reveal_study(self, study: str, reason: str, who: str = "") -> Answer:
        """Who a study belongs to, for the user of this process unless somebody else is named."""
        return self.reveal.identity(CleanUid(study), who=who or os_user(), reason=reason)

    def approve_reveal(self, id: str, who: str = "") -> Request:
        """A second person's approval."""
        return self.reveal.approve(id, who=who or os_user())

    def token_name(self, token: str) -> str:
        """Whose token it is."""
        found = self.tokens.bearer(token)
        return found.name if found else ""

    def deidentification_table(self) -> str:
        """What happens to each attribute with these settings."""
        return deidentification_table(self.profile.options)

    def profile_claims(self) -> tuple[str, list[str]]:
        """What the conformance statement claims of PS3.15 Annex E: the edition of its table, and the options that are on."""
        return METHOD[1].rpartition(" ")[2], [OPTION_CODES[name].meaning.removesuffix(" Option") for name in self.profile.options.names]

    @cached_property
    def quarantine(self) -> Quarantine:
        return Quarantine(self.wing)

    # --- refused studies ------------------------------------------------------------------------------------------------------
    @cached_property
    def review(self) -> Review:
        from node.identified.review import Review

        looker = self.looker.looker if self.looker else Looker(text_detection="off")
        return Review(self.wing, self.intake, self.quarantine, self.decisions_by_hand, self.clean_uids, looker)

    def show_refused(self, study: str, out: Path, instance: str = "") -> list[dict[str, Any]]:
        """Pictures of a refused study below `out`, for a person: written down before they are made."""
        self._by_person(Event.INSTANCES_ACCESSED, Action.READ, study, "looked at in quarantine", instance=instance)
        return [
            {
                "instance": shown.instance,
                "rows": shown.rows,
                "columns": shown.columns,
                "frames": shown.frames,
                "boxes": [[box.left, box.top, box.right - box.left, box.bottom - box.top] for box in shown.boxes],
                "files": list(shown.files),
                "trouble": shown.trouble,
            }
            for shown in self.review.pictures(CleanUid(study), out, instance)
        ]

    def mask_by_hand(self, study: str, instance: str, boxes: Collection[tuple[int, int, int, int]], why: str) -> None:
        """Boxes (left, top, width, height) that the next de-identification paints over."""
        self.review.mask(CleanUid(study), instance, [Box(x, y, x + w, y + h) for x, y, w, h in boxes], who=os_user(), why=why)
        self._by_person(Event.INSTANCES_ACCESSED, Action.UPDATE, study, f"masked by hand: {why}", instance=instance, boxes=str(len(boxes)))

    def release_refused(self, study: str, why: str, who: str = "") -> None:
        """A refused study goes its way again because a person says so."""
        self.review.release(CleanUid(study), who=who or os_user(), why=why)
        self._by_person(Event.SECURITY_ALERT, Action.EXECUTE, study, f"released from quarantine: {why}", who=who)

    def pixel_facts(self, study: Study) -> dict[str, str]:
        """What was done to the pixels of a de-identified study, and on whose word; for the audit trail."""
        counts = pixel_counts(study.folder)
        facts = {name: str(count) for name, count in counts.items() if count}
        who, why = self.decisions_by_hand.last(study.ref.study)
        return facts | ({"decided by": who, "because": why} if who else {})

    def _by_person(self, event: Event, action: Action, study: str, what: str, who: str = "", **facts: str) -> None:
        self.trail.record(
            AuditEvent(
                event=event,
                type=Type.USE_OF_RESTRICTED_FUNCTION if event is Event.SECURITY_ALERT else None,
                action=action,
                who=who or os_user(),
                study=study,
                what=what,
                facts={name: fact for name, fact in facts.items() if fact},
            )
        )

    @cached_property
    def destinations(self) -> Mapping[str, Destination]:
        kinds = Registry("node.destinations", Destination)  # type: ignore[type-abstract]
        found = {}
        for name, chosen in self.settings.destinations.items():
            keys = dict(chosen)
            kind = kinds[str(keys.pop("kind", "(none)"))]
            try:
                found[name] = kind(name, kind.Settings(**keys))
            except ValidationError as why:
                wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in why.errors(include_input=False))
                raise SettingsInvalid(f"destinations.{name}: {wrong}; known: {', '.join(sorted(kind.Settings.model_fields))}") from None
        return found

    def probe(self, name: str, sop_classes: Sequence[str]) -> Mapping[str, tuple[str, ...]] | None:
        """Ask a destination what it accepts, and remember it. None: it can't be asked. Raises DeliveryFailed, DeliveryRefused."""
        accepted = self.destinations[name].probe(sop_classes)
        if accepted is not None:
            self.probes.remember(name, accepted)
            self._configured(f"destination {name} asked what it accepts", classes=str(len(accepted)))
        return accepted

    def forget_probe(self, name: str) -> None:
        """The destination is taken to accept everything again."""
        self.probes.forget(name)
        self._configured(f"what destination {name} accepts was forgotten")

    def _configured(self, what: str, **facts: str) -> None:
        alert, changed = Event.SECURITY_ALERT, Type.SOFTWARE_CONFIGURATION
        self.trail.record(AuditEvent(event=alert, type=changed, action=Action.EXECUTE, who=os_user(), what=what, facts=facts))

    @cached_property
    def outbox(self) -> Outbox:
        delivery = self.settings.delivery
        return Outbox(
            self.wing,
            self.destinations,
            self.reidentifier.name_again,
            self.clean,
            self.trail.record,
            first_retry_s=delivery.first_retry_s,
            longest_retry_s=delivery.longest_retry_s,
            give_up_after=timedelta(hours=delivery.give_up_after_hours),
            clock=now,
        )

    # --- what people are shown of the wing, without a name ------------------------------------------------------------------
    @cached_property
    def arrivals(self) -> Arrivals:
        return Arrivals(self.wing)

    @cached_property
    def deliveries(self) -> Deliveries:
        return Deliveries(self.wing, self.outbox, self.destinations)

    @cached_property
    def refusals(self) -> Refusals:
        return Refusals(self.wing)

    @cached_property
    def named_results(self) -> Results:
        """Results as the patient's own archive knows them."""
        return Results(self.ledger, self.clean_uids, self.reidentifier, self.clean)

    # --- doors ----------------------------------------------------------------------------------------------------------------
    def free_bytes(self) -> int:
        """Bytes above the disk watermark; 0 or less: nothing more is taken."""
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.settings.data_dir).free - (self.settings.intake.min_free_mb << 20)

    def door(self, name: str) -> scp.Door:
        """What one receiver process needs."""
        from node import scp

        chosen = self.settings.scp
        return scp.Door(
            ae_title=chosen.ae_title,
            callers=tuple(scp.CallerRule.of(caller.ae_title, caller.addresses) for caller in chosen.callers),
            writer=self.vault.writer(name),
            clean_uids=self.clean_uids,
            free_bytes=self.free_bytes,
            alert=self._alert,
            max_associations=chosen.max_associations,
            max_pdu_bytes=chosen.max_pdu_bytes,
            idle_timeout_s=chosen.idle_timeout_s,
            clock=now,
        )

    def take_folder(self, folder: Path, progress: Callable[[int, int], None] = lambda done, of: None) -> Counter[str]:
        """Take every DICOM file below a folder and settle what came; returns why files were left out, and how many."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        left_out: Counter[str] = Counter()
        writer = self.vault.writer("folder")
        for number, path in enumerate(files, 1):
            try:
                self.intake.accept(path, Origin(channel=Channel.FOLDER, received_at=now()), writer)
            except InstanceUnreadable as why:
                left_out[why.detail or why.message] += 1
            progress(number, len(files))
        writer.close()
        if not self.intake.index_new():
            raise NothingToDo
        return left_out

    def orthanc_sources(self, writer: VaultWriter) -> dict[str, OrthancSource]:
        """The Orthancs of the settings, to be told and asked."""
        from node.identified.orthanc_source import OrthancSource

        return {
            name: OrthancSource(
                name,
                chosen.url,
                chosen.username,
                chosen.password.get_secret_value() if chosen.password else "",
                accept=partial(self.intake.accept, writer=writer),
                known=self.intake.known,
                ours=self.outbox.ours,
                expect=lambda study, count: self.intake.expect(self.clean_uids.of(study), count),
                record=self.trail.record,
                engine=self.wing,
                spool=self.spool,
                timeout_s=chosen.timeout_s,
                clock=now,
            )
            for name, chosen in self.settings.orthancs.items()
        }

    def instances_at_source(self, study_instance_uid: str) -> int | None:
        """How many instances the configured source says the study has (by its original UID)."""
        from node.identified import counting

        chosen = self.settings
        return counting.expected_instances(
            chosen.sources[chosen.intake.count_from], study_instance_uid, calling_ae_title=chosen.scp.ae_title
        )

    def spool(self) -> BinaryIO:
        """An empty file for an instance on its way in."""
        return spool(self.identified / "spool")

    def ready(self) -> dict[str, bool]:
        """What must work before studies may be sent."""
        return {"ledger": _answers(self.ledger), "vault": _answers(self.wing), "disk": self.free_bytes() > 0}

    def _alert(self, calling_ae: str, called_ae: str, address: str, why: str) -> None:
        self.trail.record(
            AuditEvent(
                event=Event.SECURITY_ALERT,
                type=Type.NODE_AUTHENTICATION,
                action=Action.EXECUTE,
                outcome=Outcome.SERIOUS_FAILURE,
                who=f"AETITLES={self.settings.scp.ae_title}",
                peer=address,
                what=f"association refused: {why}",
            )
        )

    # --- running --------------------------------------------------------------------------------------------------------------
    def check(self) -> None:
        """Everything that can be wrong before the start: settings of destinations, rules, the master key."""
        self._names_stay_out()
        self.studies.mkdir(parents=True, exist_ok=True)
        self.results.mkdir(parents=True, exist_ok=True)
        source = self.settings.intake.count_from
        if source and source not in self.settings.sources:
            raise SettingsInvalid(f"intake.count_from names {source}; known below sources: {', '.join(self.settings.sources) or 'none'}")
        _ = self.destinations, self.clean_uids, self.trail
        if not self.rules.rules:
            _log.warning("there are no rules, so nothing will be analysed; name a file in `rules`")

    def runner(self, *, inline: bool = False) -> Runner:
        """Who carries out jobs on this machine: warm worker processes, or (`inline`) this very process."""
        from node.runners.inline import InlineRunner
        from node.runners.local import LocalRunner

        chosen = self.settings.workers
        bundles_dir = self.settings.bundles_dir
        if inline:
            return InlineRunner(
                self.jobs,
                clean_folder=self.clean,
                results_folder=self.results,
                bundles_dir=bundles_dir,
                device=chosen.device,
                model_memory_mb=chosen.model_memory_mb,
            )
        asked_for = {rule.run for rule in self.rules.rules}
        bundles = self.bundles.items()
        active = [(name, bundle.version) for name, bundle in bundles if not asked_for or name in asked_for]  # without rules ready for all
        shadows = [(name, bundle.version) for name, _ in active for bundle in self.shelf.shadows(name)]
        return LocalRunner(
            self.jobs,
            count=chosen.count,
            device=chosen.device,
            job_timeout_s=chosen.job_timeout_s,
            memory_mb=chosen.memory_mb,
            model_memory_mb=chosen.model_memory_mb,
            first=[*active, *shadows],
            clean_folder=self.clean,
            results_folder=self.results,
            bundles_dir=bundles_dir,
            hidden=[self.identified],
        )

    @contextmanager
    def noted(self, part: str) -> Iterator[None]:
        """The start and the end of a part are events of the trail (PS3.15 A.5.3.1)."""
        self.trail.record(AuditEvent(event=Event.APPLICATION_ACTIVITY, type=Type.APPLICATION_START, action=Action.EXECUTE, what=part))
        try:
            yield
        finally:
            self.trail.record(AuditEvent(event=Event.APPLICATION_ACTIVITY, type=Type.APPLICATION_STOP, action=Action.EXECUTE, what=part))

    def close(self) -> None:
        """Let go of the databases, before processes are started."""
        if self.__dict__.get("looker"):
            self.__dict__["looker"].close()
        for name in ("ledger", "wing"):
            if name in self.__dict__:
                self.__dict__[name].dispose()

    # --- at a glance ------------------------------------------------------------------------------------------------------------
    def overview(self) -> dict[str, Any]:
        """What `radnode status` shows: counts only."""
        return {
            "studies": self.intake.state_counts(),
            "jobs": {state.value: count for state, count in self.jobs.counts().items()},
            "deliveries": {
                status.name: {
                    **{state.value: count for state, count in status.counts.items()},
                    "configured": status.configured,
                    "reason": status.reason,
                }
                for status in self.outbox.status()
            },
            "quarantine": [
                {"study": entry.study, "revision": entry.revision, "kind": entry.kind, "reason": entry.reason}
                for entry in self.quarantine.list()
            ],
            "proven": len(self.proofs()),
            "free_mb": self.free_bytes() >> 20,
            "rules": len(self.rules.rules),
            "pipelines": {name: f"{bundle.version} {bundle.digest[:12]}" for name, bundle in self.bundles.items()},
            "shadows": {
                "pipelines": {
                    name: [f"{bundle.version} {bundle.digest[:12]}" for bundle in found]
                    for name in sorted({*self.pipelines, *self.bundles})
                    if (found := self.shelf.shadows(name))
                },
                "jobs": {state.value: count for state, count in self.jobs.counts(shadow=True).items()},
            },
        }


def _answers(engine: Engine) -> bool:
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT 1")).scalar() == 1
    except SQLAlchemyError:
        return False

"""The only file that knows every other: builds the parts from the settings and joins them.

A part that brings a large library (a network stack, image processing) is imported where it is built: a command that needs none of
it starts in half the time.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from zoneinfo import ZoneInfo

from pydantic import ValidationError
from pydicom.uid import UID
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from config import Settings
from node import log
from node.audit import Action, AuditEvent, Event, Outcome, Type, written_first
from node.bundle import Bundle
from node.companions import wanted_by
from node.destinations.interface import Destination
from node.domain import Channel, CleanUid, Origin, ReadingLink, Role, Study, StudyRef
from node.errors import (
    DeliveryFailed,
    InstanceUnreadable,
    NoAnswer,
    NodeError,
    NothingToDo,
    PluginBroken,
    RevealRefused,
    RulesInvalid,
    SettingsInvalid,
)
from node.identified import words
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
from node.identified.keys import Keyring, OfKnownStudies, read_master_key
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
from node.profiles import PACKED, fitted, kinds_of
from node.registry import Registry
from node.router import Needs, Pipelines, RuleSet, read_rules, text_of_file
from node.runners.interface import Queue, Runner
from node.seg_syntax import SEGMENTATIONS, packed, syntaxes_of
from node.tls import Tls, client_context, expires, server_context

if TYPE_CHECKING:
    from node import scp
    from node.annotations.worth import Worth
    from node.assessment.answers import Answer as ReaderAnswer
    from node.assessment.told import Ours
    from node.identified.assessments import Assessments
    from node.identified.head import Head
    from node.identified.intake import Intake
    from node.identified.orthanc_source import OrthancSource
    from node.identified.review import Review
    from node.identified.visitor import Visitor
    from node.ledger.cards import Cards
    from node.ledger.decisions import Decisions
    from node.ledger.headers import Headers
    from node.ledger.jobs import Jobs
    from node.ledger.probes import Probes
    from node.ledger.reading_links import ReadingLinks
    from node.ledger.reception import Reception
    from node.ledger.tokens import Tokens
    from node.ledger.trail import Trail
    from node.ledger.verdicts import Heard, Verdicts
    from node.ledger.versions import VersionDecisions
    from node.ledger.watched import Watched
    from node.notices import Found
    from node.post import Post, Recipient
    from node.reading_room import Assessment, ReadingRoom
    from node.rules.book import RuleBook
    from node.rules.replay import Comparison
    from node.runners.local import LocalRunner
    from node.shelf import Shelf
    from node.viewing.light_box import LightBox

_log = log.get(__name__)

RATE = "rate_per_minute"
SYNTAX = "transfer_syntax"
OF_EVERY_DESTINATION = ("profile", SYNTAX, RATE)  #: keys beside those of its kind
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
        _made(self.clean)
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

        _made(self.identified, mode=0o700)
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
        from node.guests import allowed

        try:
            wanted_by(bundle)
            if not bundle.sidecar:
                return pipeline in self.pipelines
            allowed.check(bundle)
        except NodeError as why:
            _log.error("a bundle is left out", extra={"pipeline": pipeline, "because": str(why)})
            return False
        return True

    def kind_of(self, pipeline: str, bundle: Bundle) -> type[Pipeline]:
        """What runs the bundle: its pipeline's code, or that for any bundle that dropped in."""
        from node.pipelines._any_bundle import kind_of

        return kind_of(bundle) if bundle.sidecar else self.pipelines[pipeline]

    @property
    def needs(self) -> Pipelines:
        """What each pipeline takes, for the router's guards."""
        needs = {
            name: Needs(
                takes=self.kind_of(name, bundle).takes,
                modalities=tuple(bundle.intended_use.get("modality", ())),
                min_slices=int(bundle.intended_use.get("min_slices", 1)),
                series=wanted_by(bundle),
                findings=() if bundle.sidecar else bundle.labels,
            )
            for name, bundle in self.bundles.items()
        }
        return Pipelines(needs, self.shelf.damaged())

    @cached_property
    def rule_book(self) -> RuleBook:
        """Who may change the rules, and how; the revisions."""
        from node.ledger.rule_revisions import RuleRevisions
        from node.rules.book import Known, RuleBook

        return RuleBook(
            RuleRevisions(self.ledger, now),
            lambda event: self.trail.record(event),
            lambda: Known(pipelines=self.needs, destinations=self._known_destinations),
            second_person=self.settings.routing.approval == "second person",
        )

    @property
    def rules(self) -> RuleSet:
        """The rules in force: the active revision of the ledger; before there is one, the file of the settings."""
        found = self.rule_book.in_force()
        if found is None and self.settings.rules is not None:
            found = read_rules(self.settings.rules, pipelines=self.needs, destinations=self._known_destinations)
        return found or NO_RULES

    def take_rules_file(self) -> None:
        """At a start: the file of the settings becomes a revision, when it is the first or it changed and nobody published over it."""
        path = self.settings.rules
        if path is not None and (path.exists() or self.rule_book.active() is None):
            self.rule_book.take_file(text_of_file(path), path.name)

    def rules_text(self) -> str:
        """The active revision's text, else the file's; empty where there is neither. Asking makes no ledger."""
        try:
            active = self.rule_book.active() if self.has_ledger else None
        except SQLAlchemyError:
            _log.warning("the node's ledger can't be read: the rules file is used, whatever was published")
            active = None
        if active is not None:
            return active.text
        return text_of_file(self.settings.rules) if self.settings.rules else ""

    def local_now(self) -> datetime:
        """The clock on the wall, for parts of the day: `routing.time_zone`, or this machine's."""
        zone = self.settings.routing.time_zone
        return now().astimezone(ZoneInfo(zone) if zone else None)

    @cached_property
    def headers(self) -> Headers:
        """What rules could ask about past studies."""
        from node.ledger.headers import Headers

        return Headers(self.ledger, now)

    @cached_property
    def watched(self) -> Watched:
        """What the watched draft would have done otherwise."""
        from node.ledger.watched import Watched

        return Watched(self.ledger, now)

    def try_rules(self, text: str, study: str) -> list[dict[str, Any]] | None:
        """Every rule of a draft against a study that was routed here, with the reasons; None when nothing is kept of it. Raises RulesInvalid."""
        from node.rules.kept import given_back

        kept = self.headers.of_study(study)
        return None if kept is None else self.rule_book.try_on(text, given_back(kept))

    def replay(
        self, text: str, days: float, progress: Callable[[int, int], None] = lambda done, of: None, *, workers: int = 0
    ) -> Comparison:
        """What a draft would have done with the studies of the last days, beside the rules in force. Raises RulesInvalid."""
        from node.rules.replay import replay

        return replay(
            self.headers.since(now() - timedelta(days=days)),
            self.rule_book.read(text),
            self.rules,
            self.needs,
            progress,
            workers=workers or os.cpu_count() or 1,
        )

    def rules_of(self, path: Path) -> RuleSet:
        """The rules of another file, wherever they would send results."""
        return read_rules(path, pipelines=self.needs, destinations=AnyName())

    # --- the wing -----------------------------------------------------------------------------------------------------------
    @cached_property
    def wing(self) -> Engine:
        _made(self.identified, mode=0o700)
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
        """Purged studies that a database knows of all the same: what a restored backup brought, or a purge that was broken off left."""
        left = {CleanUid(study) for study in self.jobs.studies() | self.decisions.studies()} & self.tombstones.all().keys()
        left -= {one.study for one in self.arrivals.of(left)}  # sent again since
        return [*self.tombstones.studies_back(self.wing), *sorted(left)]

    def master_key(self) -> bytes:
        """The master key as the settings give it now: a file may hold another one than before."""
        vault = self.settings.vault
        secret = vault.master_key.get_secret_value() if vault.master_key else None
        return read_master_key(vault.master_key_file, secret, self.identified / "master.key")

    def rotate_keys(self, new_key_file: Path | None, progress: Callable[[int, int], None]) -> Rotated:
        """Give the wing another master key while the node runs, or carry on with a rotation that was interrupted.

        The default key file is replaced here; any other place the administrator changes, and calls this once more.
        """
        with self.by_hand("master key: a rotation is begun or carried on", Type.SOFTWARE_CONFIGURATION, Action.UPDATE):
            done = self._rotated(new_key_file, progress)
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

    def _rotated(self, new_key_file: Path | None, progress: Callable[[int, int], None]) -> Rotated:
        rotation = Rotation(self.wing, self.keyring.masters)
        default = not (self.settings.vault.master_key or self.settings.vault.master_key_file)
        if not rotation.under_way:
            if new_key_file is None and not default:
                raise SettingsInvalid("the master key comes from the settings: give the new one with --new-key-file")
            rotation.begin(read_master_key(new_key_file, None, new_key_file) if new_key_file else new_master_key())
        if new_key_file and read_master_key(new_key_file, None, new_key_file) != rotation.new_key():
            raise SettingsInvalid("a rotation to another key is under way: finish it first, with --new-key-file as then or without")
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
            Identities(self.wing, OfKnownStudies(self.keyring)),
            self.studies,
            unflagged=self.settings.deidentification.unflagged_pixels,
            looker=self.looker,
            by_hand=self.decisions_by_hand.of,
            faces=self.faces,
            prover=self.prover,
        )

    def visitor(self, folder: Path) -> Visitor:
        """A study that is de-identified below `folder` as every other, and of which nothing is written in the wing."""
        from node.identified.visitor import Visitor

        self._names_stay_out()

        def deidentifier(identities: Identities, studies: Path) -> Deidentifier:
            unflagged = self.settings.deidentification.unflagged_pixels
            return Deidentifier(
                self.profile,
                self.clean_uids,
                identities,
                studies,
                unflagged=unflagged,
                looker=self.looker,
                faces=self.faces,
                prover=self.prover,
            )

        return Visitor(deidentifier, self.clean_uids, folder)

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

    @property
    def sealed_folders(self) -> Path:
        """What `radnode deidentify` took away, sealed: a folder for each study."""
        return self.identified / "folders"

    def folders(self, *, workers: int = 1) -> Folders:
        """Whole folders through this node's vault."""
        return Folders(
            self.wing,
            self.identities,
            self.keyring,
            self.sealed_folders,
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
        with self.by_hand("re-identification of a folder", reason=reason):
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
        self.review.refused(CleanUid(study))  # before it stands in the trail: what is typed here may be a name
        looked = Event.INSTANCES_ACCESSED
        with self.by_hand("looked at in quarantine", None, Action.READ, event=looked, study=study, instance=instance):
            pictures = self.review.pictures(CleanUid(study), out, instance)
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
            for shown in pictures
        ]

    def mask_by_hand(self, study: str, instance: str, boxes: Collection[tuple[int, int, int, int]], why: str) -> None:
        """Boxes (left, top, width, height) that the next de-identification paints over."""
        self.review.refused(CleanUid(study))  # before it stands in the trail: what is typed here may be a name
        if why:
            why = self.reveal.checked_for(CleanUid(study), why, self.review.whose(CleanUid(study)))
        what, changed, count = f"masked by hand: {why}", Event.INSTANCES_ACCESSED, str(len(boxes))
        with self.by_hand(what, None, Action.UPDATE, event=changed, study=study, instance=instance, boxes=count):
            self.review.mask(CleanUid(study), instance, [Box(x, y, x + w, y + h) for x, y, w, h in boxes], who=os_user(), why=why)

    def release_refused(self, study: str, why: str, who: str = "") -> None:
        """A refused study goes its way again because a person says so. Raises ReasonRefused when the reason names the patient."""
        self.review.refused(CleanUid(study))
        why = self.reveal.checked_for(CleanUid(study), why, self.review.whose(CleanUid(study)))
        with self.by_hand(f"released from quarantine: {why}", study=study, who=who):
            self.review.release(CleanUid(study), who=who or os_user(), why=why)

    def pixel_facts(self, study: Study) -> dict[str, str]:
        """What was done to the pixels of a de-identified study, and on whose word; for the audit trail."""
        counts = pixel_counts(study.folder)
        facts = {name: str(count) for name, count in counts.items() if count}
        who, why = self.decisions_by_hand.last(study.ref.study)
        return facts | ({"decided by": who, "because": why} if who else {})

    # --- acts by hand ---------------------------------------------------------------------------------------------------------
    def by_hand(
        self,
        what: str,
        type: Type | None = Type.USE_OF_RESTRICTED_FUNCTION,
        action: Action = Action.EXECUTE,
        *,
        event: Event = Event.SECURITY_ALERT,
        study: str = "",
        who: str = "",
        **facts: str,
    ) -> AbstractContextManager[None]:
        """Around what the user of this process does, or `who`: it is written down before it is done (PS3.15 A.5.3.11)."""
        kept = {name: fact for name, fact in facts.items() if fact}
        done = AuditEvent(event=event, type=type, action=action, who=who or os_user(), study=study, what=what, facts=kept)
        return written_first(self.trail.record, done)

    # --- what readers say -----------------------------------------------------------------------------------------------------
    @cached_property
    def verdicts(self) -> Verdicts:
        from node.ledger.verdicts import Verdicts

        return Verdicts(self.ledger, clean_folder=self.clean)

    @cached_property
    def assessments(self) -> Assessments:
        from node.identified.assessments import Assessments

        return Assessments(self.profile, self.clean_uids, self.identities, self.clean / "assessments", prover=lambda: self.prover)

    @cached_property
    def reading_room(self) -> ReadingRoom:
        """Where readers' answers are heard."""
        from node.reading_room import ReadingRoom

        return ReadingRoom(
            told=self.told,
            brought=self._brought_by_readers,
            known=self.verdicts.known,
            keep=self.verdicts.record,
            record=self.trail.record,
            clock=now,
        )

    def told(self, study: CleanUid) -> Ours:
        """What this node told the readers of a study."""
        from node.assessment.told import told_of

        return told_of(self.jobs.of_study(study), self.jobs.objects_of, self.jobs.summary_of)

    def _brought_by_readers(self, ref: StudyRef, ours: Ours) -> tuple[Sequence[Assessment], int]:
        """Readers' objects since the study was last taken in, and how many other instances came since."""
        from node.identified.assessments import may_answer

        since = max((int(path.name[1:]) for path in (self.studies / ref.study).glob("r*")), default=0)
        received, others = self.intake.newcomers(ref, since, may_answer)
        found = self.assessments.understood(received, ours)
        return found, others + received.count - len(found)

    @cached_property
    def reading_links(self) -> ReadingLinks:
        """Signed links to the reading page; they name a job and a finding."""
        from node.ledger.reading_links import ReadingLinks

        return ReadingLinks(self.keyring.site_key("reading links"), clock=now, lasts=timedelta(days=self.settings.web.reading_link_days))

    def reading_link(self, job: str, tracking_uid: str = "") -> ReadingLink:
        """Where a job's result, or one finding of it, is read and answered. Without `web.address` the URL is a bare token."""
        token, address = self.reading_links.make(job, tracking_uid), self.settings.web.address.rstrip("/")
        return ReadingLink(url=f"{address}/read/{token}" if address else token, until=self.reading_links.open(token).until)

    def report_link(self, job: str) -> ReadingLink | None:
        """The link that the reports of a job carry; None: they carry none."""
        if self.settings.web.reading_links == "off":
            return None
        return self.reading_link(job)

    def record_verdict(self, token: str, opinion: str, reason: str = "", who: str = "") -> Heard:
        """One click on the reading page: what the holder of a link says of the finding that it names.

        Words that may name somebody do not stay in the reason, and of `who` a keyed hash is kept.

        Raises
        ------
        LinkRefused, VerdictRefused
            Nothing is kept.
        """
        linked = self.reading_links.open(token)
        return self.answer(linked.job, opinion, reason, who, tracking_uid=linked.tracking_uid)

    def told_of_job(self, job: str) -> Ours | None:
        """What this node told the readers of a job's study; None when the job is not known."""
        found = self.jobs.get(job)
        return self.told(found.study.study) if found else None

    def answer(
        self, job: str, opinion: str, reason: str = "", who: str = "", *, tracking_uid: str = "", missed: str = "", form: str = ""
    ) -> Heard:
        """What somebody says on a page of a result, of one of its findings, or of one that it missed. Raises VerdictRefused."""
        from node.assessment.answers import Answer as ReaderAnswer
        from node.reading_room import opinion_named

        chosen = opinion_named(opinion, about_one=bool(tracking_uid))
        said = ReaderAnswer(job=job, opinion=chosen, tracking_uid=tracking_uid, finding=missed, reason=reason, form=form)
        return self.answers(job, [said], who)[0]

    def answers(self, job: str, said: Sequence[ReaderAnswer], who: str = "") -> list[Heard]:
        """All that somebody says on a page of one result, or nothing of it.

        Words that may name somebody do not stay in the reasons, and of `who` a keyed hash is kept. Raises VerdictRefused.
        """
        from node.reading_room import of_page

        told, reader, at = self.told_of_job(job), self.clean_uids.reader(who), now()
        verdicts = [of_page(replace(one, reason=words.clean(one.reason[:1000])), reader, at, told=told) for one in said]
        about = self.jobs.get(job)
        self.trail.record_all(
            AuditEvent(
                event=Event.INSTANCES_ACCESSED,
                action=Action.CREATE,
                who=reader or "reader",
                study=about.study.study if about else "",
                patient=about.pseudonym if about else "",
                what=f"a reader on the page: {one.opinion} of {one.finding or 'the result'}",
            )
            for one in verdicts
        )
        self.verdicts.record(*verdicts)
        kept = {one.verdict.id: one for one in self.verdicts.heard(of_job=job)}
        return [kept[one.id] for one in verdicts]

    def worth_labelling(self, pipeline: str = "") -> list[Worth]:
        """Results that nobody has answered, the least certain first."""
        from node.annotations.worth import worth_labelling
        from node.ledger.read_studies import read_studies

        thresholds = {name: bundle.thresholds for name, bundle in self.bundles.items()}
        return worth_labelling(read_studies(self.ledger, pipeline), self.verdicts.answered(), thresholds)

    def shows_images(self, pipeline: str) -> bool:
        """Whether the pipeline looks at each image by itself: what can be drawn on."""
        bundle = self.bundles.get(pipeline)
        return bundle is not None and self.kind_of(pipeline, bundle).takes.value == "image"

    @cached_property
    def destinations(self) -> Mapping[str, Destination]:
        kinds = Registry("node.destinations", Destination)  # type: ignore[type-abstract]
        found = {}
        for name, chosen in self.settings.destinations.items():
            keys = {key: value for key, value in chosen.items() if key not in OF_EVERY_DESTINATION}
            try:
                kind = kinds[str(keys.pop("kind", "(none)"))]
            except PluginBroken as why:
                raise SettingsInvalid(f"destinations.{name}.kind: {why.detail}") from None
            try:
                found[name] = kind(name, kind.Settings(**keys))
            except ValidationError as why:
                wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in why.errors(include_input=False))
                raise SettingsInvalid(
                    f"destinations.{name}: {wrong}; known: {', '.join(sorted((*kind.Settings.model_fields, *OF_EVERY_DESTINATION)))}"
                ) from None
        return found

    def _rates(self) -> dict[str, int]:
        """`destinations.X.rate_per_minute`, where it is set. Raises SettingsInvalid."""
        found = {name: chosen[RATE] for name, chosen in self.settings.destinations.items() if RATE in chosen}
        for name, rate in found.items():
            if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
                raise SettingsInvalid(f"destinations.{name}.{RATE}: a whole number from 1")
        return found

    @cached_property
    def syntaxes(self) -> Mapping[str, tuple[UID, ...]]:
        """Transfer syntaxes of segmentations, the best first, where the settings or the profile name some. Raises SettingsInvalid."""
        found = {}
        for name, chosen in self.settings.destinations.items():
            wanted = chosen[SYNTAX] if SYNTAX in chosen else PACKED.get(str(chosen.get("profile")))
            try:
                if wanted is not None:
                    found[name] = syntaxes_of(wanted)
            except ValueError as why:
                raise SettingsInvalid(f"destinations.{name}.{SYNTAX}: {why}") from None
        return found

    def packing(self, name: str) -> str:
        """In words, how segmentations go to a destination."""
        if not (liked := self.syntaxes.get(name)):
            return "uncompressed"
        unasked = SYNTAX not in self.settings.destinations[name] and name not in self.probes.all()
        return ", else ".join(one.name for one in liked) + (", once it is probed" if unasked else "")

    def packed_for(self, name: str, sop_class_uid: str, part10: bytes) -> bytes:
        """An object as a destination should get it. What only its profile names is used when the destination was asked and takes it."""
        if sop_class_uid not in SEGMENTATIONS or name not in self.syntaxes:
            return part10
        asked = self.probes.all().get(name)
        if asked is None and SYNTAX not in self.settings.destinations[name]:
            return part10
        return packed(part10, self.syntaxes[name], None if asked is None else asked.accepted.get(sop_class_uid, ()))

    def probe(self, name: str, sop_classes: Sequence[str]) -> Mapping[str, tuple[str, ...]] | None:
        """Ask a destination what it accepts, and remember it. None: it can't be asked. Raises NoAnswer, DeliveryRefused."""
        with self.by_hand(f"destination {name} asked what it accepts", Type.SOFTWARE_CONFIGURATION):
            try:
                accepted = self.destinations[name].probe(sop_classes)
            except DeliveryFailed as why:
                raise NoAnswer(why.detail, **why.facts) from None
            if accepted is not None:
                self.probes.remember(name, accepted)
        return accepted

    def forget_probe(self, name: str) -> None:
        """The destination is taken to accept everything again."""
        with self.by_hand(f"what destination {name} accepts was forgotten", Type.SOFTWARE_CONFIGURATION):
            self.probes.forget(name)

    @cached_property
    def kinds(self) -> Mapping[str, tuple[Role, ...]]:
        """What each destination gets, by its profile."""
        found = {}
        for name, chosen in self.settings.destinations.items():
            try:
                found[name] = kinds_of(chosen.get("profile", "default"))
            except ValueError as why:
                raise SettingsInvalid(f"destinations.{name}.profile: {why}") from None
        return found

    def kinds_for(self, destinations: Iterable[str]) -> tuple[tuple[tuple[str, tuple[Role, ...]], ...], list[str]]:
        """The same for the destinations of one route, as a job carries it: what each accepts of its profile, and in words what it does not."""
        probed, found, said = self.probes.all(), [], []
        for name in destinations:
            if name in self.kinds:
                kinds, words = fitted(self.kinds[name], probed[name].accepted) if name in probed else (self.kinds[name], [])
                found.append((name, kinds))
                said += [f"{name}: {one}" for one in words]
        return tuple(found), said

    @cached_property
    def outbox(self) -> Outbox:
        delivery = self.settings.delivery
        return Outbox(
            self.wing,
            self.destinations,
            self.reidentifier.name_again,
            self.clean,
            self.trail.record,
            pack=self.packed_for,
            first_retry_s=delivery.first_retry_s,
            longest_retry_s=delivery.longest_retry_s,
            give_up_after=timedelta(hours=delivery.give_up_after_hours),
            rate_per_minute=self._rates(),
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
        folders = [self.settings.data_dir, *(one for one in (self.identified, self.clean) if one.is_dir())]  # each may be a disk of its own
        return min(shutil.disk_usage(folder).free for folder in folders) - (self.settings.intake.min_free_mb << 20)

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
            tls=server_context(chosen.tls_cert_file, chosen.tls_key_file, chosen.tls_ca_file)
            if chosen.tls_port and chosen.tls_cert_file and chosen.tls_key_file
            else None,
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
                ours=self.jobs.ours,
                expect=lambda study, count: self.intake.expect(self.clean_uids.of(study), count),
                record=self.trail.record,
                engine=self.wing,
                spool=self.spool,
                ca_file=chosen.ca_file,
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

    def head(self, file: BinaryIO) -> Head:
        """Whose an instance is, of its file and in little memory. Raises InstanceUnreadable."""
        from node.identified.intake import head_of

        return head_of(file)[2]

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
        _made(self.studies)
        _made(self.results)
        source = self.settings.intake.count_from
        if source and source not in self.settings.sources:
            raise SettingsInvalid(f"intake.count_from names {source}; known below sources: {', '.join(self.settings.sources) or 'none'}")
        _ = self.destinations, self.kinds, self.syntaxes, self._rates(), self.clean_uids, self.trail
        self._check_certificates()
        for path in (self.identified, self.clean, self.studies, self.results, *self.identified.glob("audit.*")):
            if not os.access(path, os.W_OK):
                raise SettingsInvalid(f"data_dir: {path} can't be written by this user; give it to the user that the node runs as")
        self.take_rules_file()
        if not self.rules.rules:
            _log.warning(
                "there are no rules, so nothing will be analysed; name a file in `rules`, or publish some with `radnode rules publish`"
            )

    def _check_certificates(self) -> None:
        """Files of TLS that can't be used stop the start, whichever room they are for."""
        door, web = self.settings.scp, self.settings.web
        if door.tls_cert_file and door.tls_key_file:
            with _usable("scp.tls_cert_file, tls_key_file, tls_ca_file"):
                server_context(door.tls_cert_file, door.tls_key_file, door.tls_ca_file)
        if web.tls_cert_file and web.tls_key_file:
            with _usable("web.tls_cert_file, tls_key_file"):
                server_context(web.tls_cert_file, web.tls_key_file)
        for where, files in self._asked_by_tls().items():
            with _usable(where):
                client_context(files)

    def _asked_by_tls(self) -> dict[str, Tls]:
        """Peers that this node calls by TLS, by the setting that says how."""
        peers = {f"destinations.{name}.tls": getattr(one.settings, "tls", None) for name, one in self.destinations.items()}
        peers |= {f"sources.{name}.tls": one.tls for name, one in self.settings.sources.items()}
        peers |= {f"orthancs.{name}.ca_file": Tls(ca_file=one.ca_file) for name, one in self.settings.orthancs.items() if one.ca_file}
        return {where: files for where, files in peers.items() if isinstance(files, Tls)}

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
        asked_for = self._asked_for()
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

    def _asked_for(self) -> set[str]:
        """The pipelines that rules name. Empty: any may be wanted."""
        try:
            return {pipeline for rule in self.rules.rules for pipeline in rule.run}
        except RulesInvalid as why:
            _log.warning("no model is made ready before its first job", extra={"because": str(why)})
            return set()

    def runner_for(self, queue: Queue, results: Path) -> LocalRunner:
        """Warm workers for jobs that somebody waits for. Each loads a model with the first job that needs it."""
        from node.runners.local import LocalRunner

        chosen, predict = self.settings.workers, self.settings.predict
        return LocalRunner(
            queue,
            count=predict.workers,
            device=chosen.device,
            job_timeout_s=predict.timeout_s,
            memory_mb=chosen.memory_mb,
            model_memory_mb=chosen.model_memory_mb,
            warm=False,
            clean_folder=self.clean,
            results_folder=results,
            bundles_dir=self.settings.bundles_dir,
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

    # --- who is told ------------------------------------------------------------------------------------------------------------
    @cached_property
    def post(self) -> Post:
        """The channels of the settings, and what each was told."""
        from node.ledger.notices import Notices
        from node.post import Mail, Post, Webhook

        chosen = self.settings.notifications
        channels: list[Recipient] = [
            Webhook(
                name=f"webhook {hook.name}",
                url=hook.url.get_secret_value(),
                secret=hook.secret.get_secret_value(),
                ca_file=hook.ca_file,
                timeout_s=hook.timeout_s,
            )
            for hook in chosen.webhooks
        ]
        if chosen.smtp is not None:
            password = chosen.smtp.password.get_secret_value() if chosen.smtp.password else ""
            channels.append(Mail(password=password, **chosen.smtp.model_dump(exclude={"password"})))
        node = f"{self.settings.scp.ae_title} on {socket.gethostname()}"
        return Post(channels=channels, memory=Notices(self.ledger), quiet_s=chosen.quiet_s, node=node, link=chosen.link)

    def troubles(self, trail: tuple[bool, int | None] | None, began: datetime) -> Found:
        """What is wrong now. `trail`: whether it was intact when last verified, and its first wrong record; None: not verified yet."""
        from node.notices import DAYS, FORGOTTEN_AFTER, Figures, Watch, found

        silence = self.settings.notifications.silence
        late = now() - timedelta(hours=self.settings.notifications.waiting_hours)
        figures = Figures(
            given_up=self.jobs.given_up(now() - FORGOTTEN_AFTER),
            refused=self.outbox.dead_letters(),
            waiting={
                one.name: (sum(count for state, count in one.counts.items() if state.value == "QUEUED"), one.oldest_queued)
                for one in self.outbox.status()
                if one.oldest_queued is not None and one.oldest_queued < late
            },
            quarantined=Counter(entry.kind for entry in self.quarantine.list()),
            last_arrival=self.intake.last_arrivals([one.source for one in silence]),
            free_bytes=self.free_bytes(),
            trail_intact=trail[0] if trail else None,
            broken_at=trail[1] if trail else None,
            certificates=self._own_certificates(),
        )
        watches = [
            Watch(
                source=one.source,
                hours=one.hours,
                opens=one.between[0],
                closes=one.between[1],
                weekdays=frozenset(DAYS.index(day) for day in one.weekdays),
            )
            for one in silence
        ]
        return found(figures, watches, now=now(), began=began)

    def _own_certificates(self) -> dict[str, datetime]:
        """By the setting that names it, when each ends. One that can't be read is the log's business, not a date."""
        named = {f"{room}.tls_cert_file": one.tls_cert_file for room, one in (("scp", self.settings.scp), ("web", self.settings.web))}
        named |= {f"{where}.cert_file": Path(tls.cert_file) for where, tls in self._asked_by_tls().items() if tls.cert_file}
        ends = {}
        for setting, file in named.items():
            with suppress(OSError, ValueError):
                if file:
                    ends[setting] = expires(file)
        return ends

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
            "verdicts": {
                f"{pipeline} {version}": {"total": rates.total, "agreement": rates.agreement}
                for (pipeline, version), rates in self.verdicts.rates().items()
            },
            "free_mb": self.free_bytes() >> 20,
            "rules": len(self.rules.rules),
            "rules_revision": self.rules.revision,
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


def _made(folder: Path, mode: int = 0o777) -> None:
    """A folder below the data folder, there or made now. Raises SettingsInvalid."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as why:
        raise SettingsInvalid(f"data_dir: {folder} can't be made: {why.strerror}") from None


class AnyName(frozenset[str]):
    """Holds every name: rules are read, nothing is sent."""

    def __contains__(self, name: object) -> bool:
        return True


@contextmanager
def _usable(where: str) -> Iterator[None]:
    """Raises SettingsInvalid when a file of TLS can't be used."""
    try:
        yield
    except ssl.SSLError as why:
        raise SettingsInvalid(f"{where}: not PEM, or the key is not that of the certificate ({why.reason})") from None
    except OSError as why:
        raise SettingsInvalid(f"{where}: a file can't be read ({why.strerror}); name PEM files that the node may read") from None


def _answers(engine: Engine) -> bool:
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT 1")).scalar() == 1
    except SQLAlchemyError:
        return False

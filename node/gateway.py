"""The path of a study through the house, step by step, and the chores that keep it moving."""

from __future__ import annotations

import errno
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from functools import cached_property, partial
from typing import NamedTuple

from node import inference, log
from node.assembly import House, now
from node.audit import Action, AuditEvent, Event, Outcome
from node.bundle import Bundle
from node.companions import inputs_of, wanted_by
from node.domain import CleanUid, Job, Route, Study, StudyRef, WrittenObject
from node.errors import DiskFull, NodeError, ProcessingFailed, StudyRefused
from node.housekeeping import Chore
from node.imaging.study import read_study
from node.ledger.database import is_away
from node.ledger.jobs import job_id
from node.off_peak import next_open
from node.profiles import takers
from node.router import Decision, RuleSet, decide, in_words, routes_of
from node.rules.following import due
from node.rules.kept import kept
from node.rules.replay import changes
from node.rules.sending_on import sent_on, was_found
from node.workflow import Workflow

_log = log.get(__name__)

_JOB = re.compile("[0-9a-f]{32}")  #: a folder of results has the name of its job
MOST_TRIES = 3  #: a study that our own fault stops so often is set aside
REST_S = 5.0  #: until the paths of studies are tried again that a database or the disk stopped


class _Noted(NamedTuple):
    """A decision as the ledger keeps it."""

    series: str
    rule: str
    pipeline: str
    met: bool
    reasons: Sequence[str]

    @classmethod
    def of(cls, made: Decision) -> _Noted:
        words = [reason.words for reason in made.reasons]
        return cls(made.series.series_instance_uid, made.rule.name, made.pipeline, made.met, words)


class Gateway:
    """Joins the steps of `workflow.py` to the parts of a house, and says what happens again and again.

    Every step may run twice: state lies in the two databases, so a gateway that was killed carries on where it was.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._tries: dict[StudyRef, int] = {}
        self._rests_until = 0.0
        self._caught_up = False
        self._began = now()
        self._trail: tuple[bool, int | None] | None = None  #: what its last verification said

    # --- the path of a study ------------------------------------------------------------------------------------------------
    @cached_property
    def workflow(self) -> Workflow:
        return Workflow(
            deidentify=self._deidentify,
            choose=self._choose,
            schedule=self._schedule,
            submit=self._house.jobs.submit,
            processed=self._house.intake.processed,
            objects_of=self._house.jobs.objects_of,
            deliver=self._deliver,
            handed_over=self._handed_over,
            set_aside=self._set_aside,
            heard=self._house.reading_room.hear,
            follow=self._follow,
        )

    def _deidentify(self, ref: StudyRef) -> Study:
        study = self._house.deidentifier.deidentify(self._house.intake.open(ref))
        self._house.quarantine.release(ref.study)  # an earlier revision may have been refused
        self._describe(study)
        facts = self._house.pixel_facts(study)
        self._remember(Event.INSTANCES_ACCESSED, Action.READ, study, f"de-identified, revision {ref.revision}", facts=facts)
        return study

    def _choose(self, study: Study) -> Sequence[Route]:
        """One revision of the rules decides about the whole study, whatever is published meanwhile."""
        rules, needs = self._house.rules, self._house.needs
        decided = decide(study, rules, needs)
        self._house.decisions.record(study.ref, map(_Noted.of, decided), rules_revision=rules.revision)
        self._keep_for_replay(study, rules)
        return routes_of(decision for decision in decided if not decision.rule.after)

    def _follow(self, job: Job) -> list[Job]:
        """The jobs of rules that waited for this one, by the rules as they are now. Scheduled twice, they are the same jobs."""
        rules = self._house.rules
        if not any(rule.after for rule in rules.rules):
            return []
        folder = self._house.clean / job.folder
        if not folder.is_dir():  # purged meanwhile
            return []
        study = read_study(folder)
        decided = decide(study, rules, self._house.needs)
        beside = [one for one in self._house.jobs.of_study(study.ref.study) if one.study == job.study and not one.shadow]
        out = []
        for rule, before in due(decided, beside, job):
            found = [in_words(one) for one in rule.if_found for other in before if was_found(one, self._house.jobs.summary_of(other.id))]
            if rule.if_found and not found:
                why = f"the rule {rule.name} has no work: not found was {' or '.join(map(in_words, rule.if_found))}"
                self._remember(Event.INSTANCES_ACCESSED, Action.READ, job, why)
                continue
            because = f"after {' and '.join(rule.after)}" + (f": {found[0]}" if found else "")
            for route in routes_of(decision for decision in decided if decision.rule.name == rule.name):
                out += self._schedule(study, replace(route, reasons=(*route.reasons, because)))
        return out

    def _keep_for_replay(self, study: Study, rules: RuleSet) -> None:
        """What rules could ask, and what the watched draft would have done. A failure here stops no study."""
        house = self._house
        try:
            if house.settings.retention.keep_headers_days > 0:
                house.headers.keep(study.ref, kept(study))
            draft = house.rule_book.watched_rules()
            if draft is not None and draft.revision is not None:
                found = [asdict(change) for change in changes(study, draft, rules, house.needs)]
                house.watched.record(study.ref, draft=draft.revision, active=rules.revision or 0, differences=found)
        except Exception:
            _log.exception("a study is routed, but not kept for replay", extra={"study": study.ref.study})

    def _schedule(self, study: Study, route: Route) -> list[Job]:
        """The active version's job, then one for each version in the shadow: the same images, and nowhere to go."""
        active = self._house.bundles[route.pipeline]
        kinds, said = self._house.kinds_for([*route.destinations, *(name for one in route.send_if for name in one.destinations)])
        route = replace(route, kinds=kinds, reasons=(*route.reasons, *said))
        self._house.cards.routed(study.ref.study, route.pipeline)
        because = f"in the shadow of {route.pipeline} {active.version}: nothing is delivered"
        beside = replace(route, destinations=(), kinds=(), reasons=(*route.reasons, because))
        shadows = [self._job(study, beside, bundle, shadow=True) for bundle in self._house.shelf.shadows(route.pipeline)]
        return [self._job(study, route, active), *shadows]

    def _job(self, study: Study, route: Route, bundle: Bundle, *, shadow: bool = False) -> Job:
        series = next(series for series in study if series.series_instance_uid == route.series)
        inputs, algorithm = inputs_of(study, series, wanted_by(bundle)), bundle.algorithm
        id_ = job_id(study.ref.study, route.series, route.pipeline, algorithm.version, algorithm.digest, inputs)
        return Job(
            id=id_,
            study=study.ref,
            pseudonym=study.pseudonym,
            folder=study.folder,
            route=route,
            algorithm=algorithm,
            inputs=inputs,
            shadow=shadow,
            not_before=next_open(self._house.local_now(), route.between),
            reading_link=None if shadow else self._house.report_link(id_),
        )

    def _deliver(self, written: WrittenObject, job: Job) -> None:
        """Into the outbox of the rule's destinations, and of those that what was found sends it on to."""
        self._house.outbox.put(written, takers(job.route, written.role, sent_on=self._sent_on(job)))

    def _sent_on(self, job: Job) -> dict[str, str]:
        return sent_on(job.route.send_if, self._house.jobs.summary_of(job.id)) if job.route.send_if and not job.shadow else {}

    def _handed_over(self, job: Job) -> None:
        self._house.jobs.handed_over(job)
        self._house.cards.labelled(job.study.study)
        outcome = Outcome.SUCCESS if not job.reason else Outcome.MAJOR_FAILURE
        what = f"analysed by {job.route.pipeline} {job.algorithm.version}" + (" in the shadow, delivered nowhere" if job.shadow else "")
        facts = {f"sent on to {destination}": because for destination, because in self._sent_on(job).items()}
        self._remember(Event.INSTANCES_ACCESSED, Action.CREATE, job, what, outcome=outcome, facts=facts)

    def _set_aside(self, ref: StudyRef, why: StudyRefused) -> None:
        self._house.quarantine.set_aside(ref, why)
        self._house.intake.refused(ref)
        self._house.trail.record(
            AuditEvent(
                event=Event.INSTANCES_ACCESSED,
                action=Action.READ,
                outcome=Outcome.MAJOR_FAILURE,
                study=ref.study,
                what=f"refused: {type(why).__name__}",
            )
        )
        _log.warning("study refused", extra={"study": ref.study, "because": type(why).__name__})

    def _remember(
        self,
        event: Event,
        action: Action,
        of: Study | Job,
        what: str,
        *,
        outcome: Outcome = Outcome.SUCCESS,
        facts: dict[str, str] | None = None,
    ) -> None:
        study = of.ref.study if isinstance(of, Study) else of.study.study
        self._house.trail.record(
            AuditEvent(event=event, action=action, outcome=outcome, study=study, patient=of.pseudonym, what=what, facts=facts or {})
        )

    # --- chores ---------------------------------------------------------------------------------------------------------------
    def chores(self) -> list[Chore]:
        """What the gateway does again and again."""
        if back := self._house.studies_back():
            self.purge(*back)
        writer = self._house.vault.writer("orthanc")
        sources = self._house.orthanc_sources(writer)
        chores = [
            Chore(name="index", every_s=0.2, do=self._house.intake.index_new),
            Chore(name="settle", every_s=0.3, do=self.settle),
            Chore(name="follow", every_s=1, do=self.follow),
            Chore(name="hand over", every_s=0.3, do=self.hand_over),
            Chore(name="deliver", every_s=0.3, do=partial(self._house.outbox.send_due, 5)),
            *([Chore(name="count", every_s=2, do=self.count)] if self._house.settings.intake.count_from else []),
            Chore(name="expire", every_s=600, do=self.expire),
            Chore(name="verify the audit trail", every_s=6 * 3600, do=self.verify_trail),
        ]
        if self._house.post.channels:
            chores.append(Chore(name="tell what is wrong", every_s=self._house.settings.notifications.every_s, do=self.tell))
        for name, source in sources.items():
            chores.append(Chore(name=f"fetch from {name}", every_s=0.5, do=source.fetch_due))
            chores.append(
                Chore(name=f"catch up with {name}", every_s=self._house.settings.orthancs[name].catch_up_every_s, do=source.catch_up)
            )
        return chores

    def count(self) -> None:
        """Ask the configured source how many instances each arriving study has (Query, PS3.15 A.5.3.10)."""
        name = self._house.settings.intake.count_from
        for study, original in self._house.intake.uncounted():
            count = self._house.instances_at_source(original)
            self._house.trail.record(
                AuditEvent(event=Event.QUERY, action=Action.EXECUTE, peer=name, study=study, what="number of study related instances")
            )
            if self._house.arrivals.of([study]):  # else purged while it was asked for
                self._house.intake.expect(study, count or 0)

    def settle(self) -> int:
        """Begin the path of every study that has settled. Our own fault in one study does not stop the others.

        While a database is away or the disk is full nothing begins: no study is to blame, and all are given again.
        """
        if time.monotonic() < self._rests_until:
            return 0
        refs = self._house.intake.settled()
        for number, ref in enumerate(refs):
            try:
                self._set_out(ref)
            except Exception:
                for left in refs[number:]:
                    self._house.intake.give_again(left)
                self._rests_until = time.monotonic() + REST_S
                raise
        return len(refs)

    def _set_out(self, ref: StudyRef) -> None:
        try:
            self._arrived(ref)
            self._house.cards.keep(self._house.arrivals.of([ref.study]))
            self.workflow.study_is_stable(ref)
        except Exception as why:
            if self._passes(why):
                raise
            self._failed(ref, why)
        else:
            self._tries.pop(ref, None)
        there = self._house.arrivals.of([ref.study])
        self._house.cards.keep(there)
        if not there:  # purged meanwhile: what was written of it since goes too
            self.purge(ref.study)

    def _passes(self, why: Exception) -> bool:
        """Whether a database is away or the disk full, which `/readyz` says as well: no fault of the study."""
        full = isinstance(why, OSError) and why.errno in {errno.ENOSPC, errno.EDQUOT}
        return (full or isinstance(why, DiskFull) or is_away(why)) and not all(self._house.ready().values())

    def follow(self) -> None:
        """Bring the cards that lists show up to what the wing knows; at the first call those of all studies, as after an update."""
        if not self._caught_up:
            self._catch_up()
        seen = self._house.arrivals.on_their_way()
        ended = set(self._house.cards.on_their_way()) - {one.study for one in seen}
        there = self._house.arrivals.of(ended)
        self._house.cards.keep([*seen, *there])
        self._house.cards.forget(*(ended - {one.study for one in there}))

    def _catch_up(self) -> None:
        """Cards for studies that have none."""
        for some in self._house.arrivals.all():
            known = self._house.cards.known(some)
            new = self._house.arrivals.of(study for study in some if study not in known)
            self._house.cards.keep(new)
            for one in new:
                folder = self._house.studies / one.study / f"r{one.revision}"
                if folder.is_dir():
                    self._describe(read_study(folder))
                for job in self._house.jobs.of_study(one.study):
                    self._house.cards.routed(one.study, job.route.pipeline)
                self._house.cards.labelled(one.study)
        self._caught_up = True

    def _describe(self, study: Study) -> None:
        modalities = sorted({series.modality for series in study if series.modality})
        self._house.cards.described(study.ref.study, pseudonym=study.pseudonym, series=len(study.series), modalities=modalities)

    def _arrived(self, ref: StudyRef) -> None:
        origin, count, because = self._house.intake.arrival(ref)
        self._house.trail.record(
            AuditEvent(
                event=Event.INSTANCES_TRANSFERRED,
                action=Action.CREATE,
                who=f"AETITLES={origin.called_ae or self._house.settings.scp.ae_title}",
                peer=origin.calling_ae or origin.peer,
                study=ref.study,
                what=f"study received by {origin.channel}",
                facts={"instances": str(count), "revision": str(ref.revision), "settled": because},
            )
        )

    def _failed(self, ref: StudyRef, why: Exception) -> None:
        tries = self._tries[ref] = self._tries.get(ref, 0) + 1
        place = log.where_it_failed(why)
        _log.exception("a study can't be processed", extra={"study": ref.study, "tries": tries})
        if tries < MOST_TRIES:
            self._house.intake.give_again(ref)
        else:
            self._set_aside(ref, ProcessingFailed(f"failed {tries} times at {place}"))
            self._tries.pop(ref, None)

    def hand_over(self) -> int:
        """Put the objects of finished jobs into the outbox, and report jobs that were given up."""
        finished = self._house.jobs.completed_not_handed_over()
        for job in finished:
            self.workflow.job_is_done(job)
        for job in self._house.jobs.set_aside_not_reported():
            self._report_failure(job)
            self.workflow.job_is_done(job)
        return len(finished)

    def _report_failure(self, job: Job) -> None:
        """A job that was given up becomes a report that says so: never silence."""
        try:
            made, summary = inference.write_refusal(
                job,
                job.reason,
                clean_folder=self._house.clean,
                results_folder=self._house.results,
                written_at=self._house.jobs.scheduled_at(job.id) or now(),
                predecessor=self._house.jobs.predecessor_report(job),
            )
        except NodeError:
            _log.exception("a job that was given up can't be reported", extra={"job": job.id})
            return
        self._house.jobs.reported(job, made, summary)

    def expire(self) -> int:
        """Forget studies that are older than retention says, and what a worker wrote about one that was purged meanwhile."""
        retention = self._house.settings.retention
        studies = self._house.intake.older_than(now() - timedelta(days=retention.keep_days))
        if studies:
            self.purge(*studies, headers=False)
        for kept_studies in (self._house.headers, self._house.watched):
            kept_studies.forget(now() - timedelta(days=retention.keep_headers_days))
        self._sweep()
        return len(studies)

    def _sweep(self) -> None:
        """Results of no job: a job is known before anything of it is written."""
        results = self._house.results
        there = [path.name for path in results.iterdir() if _JOB.fullmatch(path.name)] if results.is_dir() else []
        for name in set(there) - self._house.jobs.ids():
            shutil.rmtree(results / name, ignore_errors=True)

    def purge(self, *studies: CleanUid, headers: bool = True) -> None:
        """Make studies unreadable and forget them: the key, the sealed instances, the clean copy, the results, what was decided and found.

        What rules could ask about them goes too, unless only their time is up: it has a time of its own. The audit trail comes first: a
        study whose purge can't be written down stays. docs/operations.md says what is left.
        """
        deleted = [AuditEvent(event=Event.STUDY_DELETED, action=Action.DELETE, study=study, what="purged") for study in studies]
        self._house.trail.record_all(deleted)
        for study in studies:
            if headers:
                self._house.headers.forget_study(study)
                self._house.watched.forget_study(study)
            for job in self._house.jobs.of_study(study):
                shutil.rmtree(self._house.results / job.id, ignore_errors=True)
            shutil.rmtree(self._house.studies / study, ignore_errors=True)
            shutil.rmtree(self._house.sealed_folders / study, ignore_errors=True)
            shutil.rmtree(self._house.assessments.folder / study, ignore_errors=True)
            self._house.verdicts.forget_study(study)
            self._house.jobs.forget_study(study)
            self._house.decisions.forget_study(study)
        self._house.intake.purge(*studies)
        self._house.cards.forget(*studies)

    def verify_trail(self) -> None:
        """Say loudly when the audit trail was altered."""
        verdict = self._house.trail.verify()
        self._trail = (verdict.intact, verdict.seq)
        if not verdict.intact:
            _log.error("THE AUDIT TRAIL WAS ALTERED", extra={"record": verdict.seq, "because": verdict.reason})

    def tell(self) -> int:
        """Tell the channels of the settings what is wrong and what is over; how many notices went out."""
        return self._house.post.tell(self._house.troubles(self._trail, self._began), now())

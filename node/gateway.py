"""The path of a study through the house, step by step, and the chores that keep it moving."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from typing import NamedTuple

from node import inference, log
from node.assembly import House, now
from node.audit import Action, AuditEvent, Event, Outcome
from node.domain import Algorithm, CleanUid, Job, Route, Study, StudyRef
from node.errors import NodeError, ProcessingFailed, StudyRefused
from node.housekeeping import Chore
from node.imaging.study import read_study
from node.ledger.jobs import job_id
from node.router import decide, routes_for
from node.workflow import Workflow

_log = log.get(__name__)

MOST_TRIES = 3  #: a study that our own fault stops so often is set aside


class _Noted(NamedTuple):
    """A decision as the ledger keeps it."""

    series: str
    rule: str
    met: bool
    reasons: Sequence[str]


class Gateway:
    """Joins the steps of `workflow.py` to the parts of a house, and says what happens again and again.

    Every step may run twice: state lies in the two databases, so a gateway that was killed carries on where it was.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._tries: dict[StudyRef, int] = {}
        self._caught_up = False

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
            deliver=lambda written, job: self._house.outbox.put(written, job.route.destinations),
            handed_over=self._handed_over,
            set_aside=self._set_aside,
        )

    def _deidentify(self, ref: StudyRef) -> Study:
        study = self._house.deidentifier.deidentify(self._house.intake.open(ref))
        self._house.quarantine.release(ref.study)  # an earlier revision may have been refused
        self._describe(study)
        facts = self._house.pixel_facts(study)
        self._remember(Event.INSTANCES_ACCESSED, Action.READ, study, f"de-identified, revision {ref.revision}", facts=facts)
        return study

    def _choose(self, study: Study) -> Sequence[Route]:
        rules = self._house.rules
        decided = decide(study, rules, self._house.needs)
        self._house.decisions.record(
            study.ref,
            [_Noted(d.series.series_instance_uid, d.rule.name, d.met, [reason.words for reason in d.reasons]) for d in decided],
        )
        return routes_for(study, rules, self._house.needs)

    def _schedule(self, study: Study, route: Route) -> list[Job]:
        """The active version's job, then one for each version in the shadow: the same images, and nowhere to go."""
        active = self._house.bundles[route.pipeline].algorithm
        self._house.cards.routed(study.ref.study, route.pipeline)
        because = f"in the shadow of {route.pipeline} {active.version}: nothing is delivered"
        beside = replace(route, destinations=(), reasons=(*route.reasons, because))
        shadows = [self._job(study, beside, bundle.algorithm, shadow=True) for bundle in self._house.shelf.shadows(route.pipeline)]
        return [self._job(study, route, active), *shadows]

    def _job(self, study: Study, route: Route, algorithm: Algorithm, *, shadow: bool = False) -> Job:
        series = next(series for series in study if series.series_instance_uid == route.series)
        inputs = tuple(sorted(instance.sop_instance_uid for instance in series.instances))
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
        )

    def _handed_over(self, job: Job) -> None:
        self._house.jobs.handed_over(job)
        self._house.cards.labelled(job.study.study)
        outcome = Outcome.SUCCESS if not job.reason else Outcome.MAJOR_FAILURE
        what = f"analysed by {job.route.pipeline} {job.algorithm.version}" + (" in the shadow, delivered nowhere" if job.shadow else "")
        self._remember(Event.INSTANCES_ACCESSED, Action.CREATE, job, what, outcome=outcome)

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
            self._house.intake.expect(study, count or 0)

    def settle(self) -> int:
        """Begin the path of every study that has settled. Our own fault in one study does not stop the others."""
        refs = self._house.intake.settled()
        for ref in refs:
            try:
                self._arrived(ref)
                self._house.cards.keep(self._house.arrivals.of([ref.study]))
                self.workflow.study_is_stable(ref)
            except Exception as why:
                self._failed(ref, why)
            else:
                self._tries.pop(ref, None)
            self._house.cards.keep(self._house.arrivals.of([ref.study]))
        return len(refs)

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
        """Forget studies that are older than retention says."""
        studies = self._house.intake.older_than(now() - timedelta(days=self._house.settings.retention.keep_days))
        if studies:
            self.purge(*studies)
        return len(studies)

    def purge(self, *studies: CleanUid) -> None:
        """Make studies unreadable and forget them: the key, the sealed instances, the clean copy, the results."""
        for study in studies:
            for job in self._house.jobs.of_study(study):
                shutil.rmtree(self._house.results / job.id, ignore_errors=True)
            shutil.rmtree(self._house.studies / study, ignore_errors=True)
        self._house.intake.purge(*studies)
        self._house.cards.forget(*studies)
        for study in studies:
            self._house.trail.record(AuditEvent(event=Event.STUDY_DELETED, action=Action.DELETE, study=study, what="purged"))

    def verify_trail(self) -> None:
        """Say loudly when the audit trail was altered."""
        verdict = self._house.trail.verify()
        if not verdict.intact:
            _log.error("THE AUDIT TRAIL WAS ALTERED", extra={"record": verdict.seq, "because": verdict.reason})

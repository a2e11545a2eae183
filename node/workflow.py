"""The path of a study. Every step is handed in by `assembly.py`; nothing here knows a name, a socket or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.domain import Job, Route, Study, StudyRef, WrittenObject
from node.errors import StudyRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """State lives in vault and ledger, never only in memory: each step may run twice, and ends the same."""

    deidentify: Callable[[StudyRef], Study]
    choose: Callable[[Study], Sequence[Route]]
    schedule: Callable[[Study, Route], Sequence[Job]]
    submit: Callable[[Job], None]
    processed: Callable[[StudyRef], None]
    objects_of: Callable[[Job], Sequence[WrittenObject]]
    deliver: Callable[[WrittenObject, Job], None]
    handed_over: Callable[[Job], None]
    set_aside: Callable[[StudyRef, StudyRefused], None]
    heard: Callable[[StudyRef], bool] = lambda ref: False
    follow: Callable[[Job], Sequence[Job]] = lambda job: ()

    def study_is_stable(self, ref: StudyRef) -> None:
        """The study has settled: take the name off, ask the rules, and hand each route to the runner: a job, and one for each shadow.

        What came may be a reader's answer to an earlier result. When there is nothing else there is no work in it.
        """
        if self.heard(ref):
            self.processed(ref)
            return
        try:
            study = self.deidentify(ref)
        except StudyRefused as why:
            self.set_aside(ref, why)
            return
        for route in self.choose(study):
            for job in self.schedule(study, route):
                self.submit(job)
        self.processed(ref)

    def job_is_done(self, job: Job) -> None:
        """The results are written: put each into the outbox of every destination, unless the job ran in the shadow.

            They wait there without a name; the re-identifier names a copy read from its bytes at the moment of sending. Rules that waited for
        this job have theirs scheduled now.
        """
        if not job.shadow:
            for written in self.objects_of(job):
                self.deliver(written, job)
            for next_ in self.follow(job):
                self.submit(next_)
        self.handed_over(job)

"""Rules that wait for others: which of them may go on now that a job has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from node.domain import Job, JobState
from node.router import Decision, Rule

ENDED = frozenset({JobState.COMPLETED, JobState.CANCELED})


def due(decided: Sequence[Decision], jobs: Sequence[Job], ended: Job) -> Iterator[tuple[Rule, list[Job]]]:
    """Rules that waited for `ended` and for nothing else any more, each with the jobs that it waited for.

    Parameters
    ----------
    decided
        Every rule against every series of the study.
    jobs
        Those of the study at the same revision, without shadows.

    Notes
    -----
    A rule that another one waits for must have met a series of the study: after nothing comes nothing. Two rules that want the same
    pipeline on the same series share a job, so jobs are known by what they do and not by the rule they carry.
    """
    for rule in {decision.rule.name: decision.rule for decision in decided if decision.rule.after}.values():
        wanted = [{_work(one) for one in decided if one.met and one.rule.name == name} for name in rule.after]
        work = set().union(*wanted)
        if not all(wanted) or (ended.route.pipeline, ended.route.series) not in work:
            continue
        before = [job for job in jobs if (job.route.pipeline, job.route.series) in work]
        there = {(job.route.pipeline, job.route.series) for job in before}
        if there == work and all(job.state in ENDED for job in before):
            yield rule, before


def _work(decision: Decision) -> tuple[str, str]:
    return decision.pipeline, decision.series.series_instance_uid

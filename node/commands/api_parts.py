"""What stands behind the JSON API: the parts of a house, and what only the gateway can do."""

from __future__ import annotations

import shutil

from node.assembly import House, now
from node.domain import CleanUid, JobState
from node.errors import NotNow
from node.gateway import Gateway
from node.ledger.answers import Answers
from node.ledger.job_list import JobList
from node.ledger.shown import Disk
from node.ledger.today import Today
from node.ledger.trail_list import TrailList
from node.web.api.parts import ApiParts
from node.web.results import ResultsParts


def api_parts(home: House) -> ApiParts:
    """Of the house that this process serves."""
    jobs, arrivals, results = JobList(home.ledger), home.arrivals, home.named_results

    def try_again(job: str) -> None:
        """Its report that it was given up is withdrawn first, so that the next one goes out under the same name."""
        if (state := jobs.one(job).state) != JobState.CANCELED:
            raise NotNow(f"only a job that was given up is tried again; this one is {state}")
        home.deliveries.withdraw(job)
        jobs.again(job)

    return ApiParts(
        cards=home.cards,
        jobs=jobs,
        today=Today(home.ledger, now),
        trail=TrailList(home.ledger),
        chain=home.trail,
        answers=Answers(home.ledger, now),
        shelf=home.shelf,
        book=home.rule_book,
        outgoing=home.deliveries,
        refusals=home.refusals,
        results=ResultsParts(of=results.of, header=results.header, whole=results.whole),
        record=home.trail.record,
        decisions=home.decisions.of_study,
        arrival=lambda study: arrivals.one(CleanUid(study)),
        proof=lambda study: home.proof_of(CleanUid(study)),
        disk=lambda: _disk(home),
        check_reason=lambda study, reason: home.reveal.checked_for(CleanUid(study), reason),
        try_again=try_again,
        send_again=lambda study: arrivals.send_again(CleanUid(study)),
        purge=lambda study: Gateway(home).purge(CleanUid(study)),
        release=lambda study, who, why: home.release_refused(study, why, who),
    )


def _disk(home: House) -> Disk:
    above = home.free_bytes()
    usage = shutil.disk_usage(home.settings.data_dir)
    return Disk(free_bytes=usage.free, total_bytes=usage.total, above_watermark_bytes=above)

"""`/api/v1/jobs`: how work stands, what it found, and once more for what was given up."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute

from node.ledger.job_list import JobShown, WholeJob
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.api.route import takes_a_key
from node.web.api.words import MISSING, REFUSED, Cursor, Done, JobId, Limit, Listed, UidAsked, Word, listed
from node.web.auth import needs
from node.web.notes import Notes

LOOKS = (Role.RADIOLOGIST, Role.AUDITOR, Role.INTEGRATOR)
State = Annotated[str, Query(pattern="^(SCHEDULED|IN PROGRESS|COMPLETED|CANCELED|)$")]


def routes(parts: ApiParts, notes: Notes, route: type[APIRoute]) -> APIRouter:
    """Jobs by time."""
    router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=route)

    @router.get("", dependencies=[Depends(needs(*LOOKS))])
    def find(
        request: Request,
        response: Response,
        state: State = "",
        pipeline: Word = "",
        study: UidAsked = "",
        limit: Limit = 50,
        cursor: Cursor = "",
    ) -> Listed[JobShown]:
        """Jobs, the latest scheduled first."""
        found = parts.jobs.find(limit=limit, cursor=cursor, state=state, pipeline=pipeline, study=study)
        notes.searched(request, "jobs listed", rows=str(len(found.items)), study=study)
        return listed(request, response, found)

    @router.get("/{job}", responses={**MISSING}, dependencies=[Depends(needs(*LOOKS))])
    def one(job: JobId, request: Request) -> WholeJob:
        """A job with its reasons, its findings and what it wrote."""
        found = parts.jobs.one(job)
        notes.looked(request, found.study, "a job and its result", job=job)
        return found

    @router.post("/{job}/retry", responses={**MISSING, **REFUSED}, dependencies=[Depends(needs(Role.INTEGRATOR)), Depends(takes_a_key)])
    def retry(job: JobId, request: Request) -> Done:
        """Try a job again that was given up. Its report of that is withdrawn here; what was delivered is replaced by the next one."""
        found = parts.jobs.one(job)
        with notes.does(request, "job tried again", found.study, job=job):
            parts.try_again(job)
        return Done(done="the job waits again", what=[job])

    return router

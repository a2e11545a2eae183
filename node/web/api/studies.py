"""`/api/v1/studies`: search, the story of one study, and what may be done with it by hand."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute

from node.errors import NotNow
from node.ledger.cards import Card, Wanted
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.api.route import takes_a_key
from node.web.api.story import Story, story
from node.web.api.words import MISSING, REFUSED, Cursor, Done, Limit, Listed, Since, Uid, UidAsked, Until, Why, Word, listed
from node.web.auth import needs
from node.web.notes import Notes

LOOKS = (Role.RADIOLOGIST, Role.AUDITOR, Role.INTEGRATOR)
State = Annotated[str, Query(pattern="^(RECEIVING|SETTLED|PROCESSED|QUARANTINED|)$")]
_KEY = Depends(takes_a_key)


def routes(parts: ApiParts, notes: Notes, route: type[APIRoute]) -> APIRouter:
    """Looking, for those who work with results; doing, for administrators and integrators; purging, for administrators."""
    router = APIRouter(prefix="/studies", tags=["studies"], route_class=route)

    @router.get("", dependencies=[Depends(needs(*LOOKS))])
    def find(
        request: Request,
        response: Response,
        study: UidAsked = "",
        pseudonym: Word = "",
        state: State = "",
        label: Word = "",
        pipeline: Word = "",
        modality: Word = "",
        since: Since = None,
        until: Until = None,
        limit: Limit = 50,
        cursor: Cursor = "",
    ) -> Listed[Card]:
        """Studies, newest first. Each filter that is given must fit; they fit whole words."""
        wanted = Wanted(
            study=study, pseudonym=pseudonym, state=state, label=label, pipeline=pipeline, modality=modality, since=since, until=until
        )
        found = parts.cards.find(wanted, limit=limit, cursor=cursor)
        notes.searched(request, "studies listed", rows=str(len(found.items)), **_said(wanted))
        return listed(request, response, found)

    @router.get("/{study}", responses={**MISSING}, dependencies=[Depends(needs(*LOOKS))])
    def one(study: Uid, request: Request) -> Story:
        """Arrival, settling, de-identification report, routing decisions, jobs with results, deliveries, audit, refusal."""
        found = story(parts, study)
        notes.looked(request, study, "the story of a study")
        return found

    @router.post("/{study}/retry", responses={**MISSING, **REFUSED}, dependencies=[Depends(needs(Role.INTEGRATOR)), _KEY])
    def retry(study: Uid, request: Request) -> Done:
        """Try every job of the study again that was given up."""
        parts.arrival(study)
        if not (jobs := parts.jobs.given_up(study)):
            raise NotNow("no job of this study was given up")
        with notes.does(request, "jobs of a study tried again", study, jobs=str(len(jobs))):
            for job in jobs:
                parts.try_again(job)
        return Done(done="jobs wait again", what=jobs)

    @router.post("/{study}/reroute", responses={**MISSING, **REFUSED}, dependencies=[Depends(needs(Role.INTEGRATOR)), _KEY])
    def reroute(study: Uid, request: Request) -> Done:
        """Ask the rules once more, as they are now. Work that is done stays done; only what is new is scheduled."""
        parts.arrival(study)
        with notes.does(request, "study routed again", study):
            parts.send_again(study)
        return Done(done="the study goes its way once more", what=[study])

    @router.post("/{study}/purge", responses={**MISSING}, dependencies=[Depends(needs()), _KEY])
    def purge(study: Uid, why: Why, request: Request) -> Done:
        """Delete the study's key, its sealed instances, its clean copy and its results here. Objects already delivered stay where they are."""
        parts.arrival(study)
        reason = parts.check_reason(study, why.reason)
        with notes.does(request, "purge asked for", study, reason=reason):
            parts.purge(study)
        return Done(done="purged", what=[study])

    return router


def _said(wanted: Wanted) -> dict[str, str]:
    """By what was searched, for the trail: of the words only which, since a name may have been typed."""
    words = ", ".join(name for name in ("pseudonym", "label", "pipeline", "modality") if getattr(wanted, name))
    moments = {name: at.isoformat() for name in ("since", "until") if (at := getattr(wanted, name))}
    return {"study": wanted.study, "state": wanted.state, "by": words, **moments}

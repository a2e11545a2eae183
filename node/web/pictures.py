"""`/pictures/{job}/…`: a job's result as PNGs of the clean side. One look is one audit record, however many slices it takes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from node.domain import Job
from node.errors import PixelsUnreadable
from node.ledger.tokens import Role
from node.viewing.light_box import LightBox
from node.web.auth import needs
from node.web.notes import Notes
from node.web.problems import Problem

LOOKS = (Role.RADIOLOGIST, Role.AUDITOR, Role.INTEGRATOR)
VIEW_S = 15 * 60.0  #: a look that goes on longer is written down again
MOST_VIEWS = 10_000

JobId = Annotated[str, Path(max_length=64, pattern=r"^[0-9a-f-]+$")]
Number = Annotated[int, Path(ge=0, le=100_000)]
WindowName = Annotated[str, Query(max_length=20, pattern=r"^[a-z]*$", description="One of those that `/pictures/{job}` names.")]
View = Annotated[str, Query(max_length=40, pattern=r"^[\w-]*$", description="A page's own word: what it shows is one look.")]
PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}, "description": "The picture."}}


class Looks:
    """Writes down that somebody looks at a job's pictures, once for each view of a page. Forgetting means one record more, never one less."""

    def __init__(self, notes: Notes, clock: Callable[[], float] = time.monotonic) -> None:
        self._notes, self._clock = notes, clock
        self._seen: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, request: Request, job: Job, view: str) -> None:
        """Returns when the look is durable in the trail."""
        key, now = (self._notes.who(request), job.id, view), self._clock()
        with self._lock:
            if now - self._seen.get(key, -VIEW_S) < VIEW_S:
                return
            self._notes.looked(request, job.study.study, "pictures of a result", job=job.id)
            self._seen[key] = now
            self._seen.move_to_end(key)
            if len(self._seen) > MOST_VIEWS:
                self._seen.popitem(last=False)


def routes(box: LightBox, notes: Notes) -> APIRouter:
    """Slices of the source, segments to lay over them pixel by pixel, frames of the capture."""
    router = APIRouter(prefix="/pictures/{job}", tags=["pictures"], dependencies=[Depends(needs(*LOOKS))])
    looks = Looks(notes)

    def looked_at(job: JobId, request: Request, view: View = "") -> str:
        """The job's id, when it is here and the look is written down."""
        return admitted(box, looks, request, job, view)

    show(router, box, looked_at)
    return router


def admitted(box: LightBox, looks: Looks, request: Request, job: str, view: str) -> str:
    """The job's id, when it is here and the look is written down. Raises Problem."""
    found = box.job(job)
    if found is None:
        raise Problem(404, "There are no pictures of this job: it is not known, or its study was purged.")
    looks.at(request, found, view)
    return job


def show(router: APIRouter, box: LightBox, looked_at: Callable[..., str]) -> None:
    """The routes of one job's pictures; `looked_at` is a dependency that says which job and lets nobody else see."""
    looked = Depends(looked_at)  # a default, since the annotation of a function in here could not name it

    @router.get("")
    def described(job: str = looked) -> dict[str, Any]:
        """How many slices, which are worth a look, windows, segments with their colours, captures."""
        return dict(_there(lambda: box.described(job)))

    @router.get("/slices/{at}.png", response_class=Response, responses=PNG)
    def slice_(at: Number, window: WindowName = "", job: str = looked) -> Response:
        """A slice of the source, from 0."""
        return _png(lambda: box.slice(job, at, window))

    @router.get("/segments/{segment}/{at}.png", response_class=Response, responses=PNG)
    def segment_(segment: Number, at: Number, job: str = looked) -> Response:
        """A segment on a slice, transparent where it is not."""
        return _png(lambda: box.segment(job, segment, at))

    @router.get("/captures/{number}.png", response_class=Response, responses=PNG)
    def capture(number: Number, job: str = looked) -> Response:
        """A frame of the Secondary Capture, from 0: the original beside the heat map."""
        return _png(lambda: box.capture(job, number))


def _png(render: Callable[[], bytes | None]) -> Response:
    return Response(_there(render), media_type="image/png")


def _there(ask: Callable[[], Any]) -> Any:
    try:
        found = ask()
    except PixelsUnreadable as why:
        raise Problem(422, f"The image can't be shown: {why.detail or why.message}") from None
    if found is None:
        raise Problem(404, "There is no such picture; `/pictures/{job}` says which there are.")
    return found

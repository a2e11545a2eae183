"""`POST /try/upload`: what the page *Try it* asks; one look at an upload gives the prediction and the picture together."""

from __future__ import annotations

from base64 import b64encode

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from node.errors import PixelsUnreadable
from node.imaging.plain import page_as_png
from node.ledger.tokens import Role
from node.web.auth import needs
from node.web.predict import PNG, PredictParts, examined_of, prediction_of
from node.web.predictions import Prediction
from node.web.problems import Problem

TRIES = (Role.INTEGRATOR, Role.RADIOLOGIST)


class Trial(BaseModel):
    """The answer for the page."""

    prediction: Prediction
    picture: str = Field("", description="A data URL: the original beside the heat map; empty where there is none.")


def routes(parts: PredictParts) -> APIRouter:
    """For people who accepted the terms on the page."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(needs(*TRIES))])

    @router.post("/try/upload")
    async def upload(request: Request) -> Trial:
        """The form is that of `/predict`, and so are the refusals."""
        if not parts.terms.accepted(request.scope):
            raise Problem(409, "Accept what the page says first; load it again if it does not ask.")
        examined, left_out = await examined_of(request, parts, what="try it", capture=True)
        picture = await run_in_threadpool(_picture, examined.capture) if examined.summary["analysed"] else ""
        return Trial(prediction=prediction_of(examined, left_out), picture=picture)

    return router


def _picture(capture: bytes) -> str:
    if not capture:
        return ""
    try:
        return f"data:{PNG};base64,{b64encode(page_as_png(capture)).decode()}"
    except PixelsUnreadable:
        return ""

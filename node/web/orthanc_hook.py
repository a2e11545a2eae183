"""The second door in: "this study is stable", said by the script in Orthanc."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from node.web.auth import CHALLENGE, Alarm, Knock, bearer, peer_of, same_secret
from node.web.bodies import FewWords
from node.web.metrics import Metrics
from node.web.parts import WebParts
from node.web.problems import Problem, document


class StableStudy(BaseModel):
    """Orthanc's own id only: no name and no DICOM UID crosses the hook."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    orthanc: Annotated[str, Field(min_length=1, max_length=100, description="The name of the Orthanc in the node's settings.")]
    study: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{8}){4}$", description="Orthanc's id of the study.")]


PATH = "/orthanc/stable-study"


def knock(parts: WebParts, metrics: Metrics, alarm: Alarm) -> Knock:
    """The hook's own check: the secret shared with Orthanc, before a byte of the body is read."""

    async def knows_the_secret(scope: Scope) -> Response | None:
        if not parts.hook_secret:
            return document(403, "The hook is closed; set web.hook_secret in the node and Radnode.Secret in Orthanc's configuration.")
        if same_secret(bearer(scope), parts.hook_secret):
            return None
        metrics.hook.labels("refused").inc()
        await run_in_threadpool(alarm.raise_it, peer_of(scope), "wrong hook secret")
        what = "The secret is wrong; Radnode.Secret in Orthanc's configuration must equal web.hook_secret of the node."
        return document(401, what, headers=CHALLENGE)

    return knows_the_secret


def routes(parts: WebParts, metrics: Metrics) -> APIRouter:
    """`POST /orthanc/stable-study`: 202 once the study is written down to be fetched."""
    router = APIRouter(tags=["orthanc"], route_class=FewWords)

    @router.post(PATH, status_code=202)
    def stable_study(told: StableStudy) -> Response:
        """Orthanc says that a study has become stable."""
        if told.orthanc not in parts.peers:
            metrics.hook.labels("unknown").inc()
            raise Problem(404, "No Orthanc of that name is in the settings; add it below `orthancs`, or correct Radnode.Orthanc there.")
        parts.hook(told.orthanc, told.study)
        metrics.hook.labels("taken").inc()
        return Response(status_code=202)

    return router

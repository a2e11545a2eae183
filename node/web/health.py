"""Is it alive, may studies be sent? The only routes that anybody may ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import APIRouter
from fastapi.responses import JSONResponse


def routes(ready: Callable[[], Mapping[str, bool]]) -> APIRouter:
    """`GET` (or `HEAD`, as load balancers ask) `/healthz` and `/readyz`."""
    router = APIRouter(tags=["health"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz")
    async def healthz() -> JSONResponse:
        """This process answers."""
        return JSONResponse({"alive": True})

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz")
    def readyz() -> JSONResponse:
        """Studies may be sent; when not, `checks` says what is missing."""
        checks = dict(ready())
        works = all(checks.values())
        return JSONResponse({"ready": works, "checks": checks}, 200 if works else 503)

    return router

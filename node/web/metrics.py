"""Counters for Prometheus. Their labels are routes, methods, outcomes: closed words, never a UID or a name."""

from __future__ import annotations

import time

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.ledger.tokens import Role
from node.web.auth import needs

_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}


class Metrics:
    """What the web room counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter("radnode_http_requests", "HTTP requests", ["method", "route", "status"], registry=registry)
        self.seconds = Histogram("radnode_http_seconds", "Seconds until the answer was out", ["route"], registry=registry)
        self.stow = Counter("radnode_stow_instances", "Instances that came by STOW-RS", ["outcome"], registry=registry)
        self.stow_bytes = Counter("radnode_stow_bytes", "Bytes that came by STOW-RS", registry=registry)
        self.hook = Counter("radnode_orthanc_hook_calls", "Calls of Orthanc's script", ["outcome"], registry=registry)


class Counting:
    """ASGI middleware: counts requests by the route's template."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        began = time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)


def routes(registry: CollectorRegistry) -> APIRouter:
    """`GET /metrics`, for any token: the figures say nothing about a patient, but a hospital's load is nobody else's business."""
    router = APIRouter(tags=["health"], dependencies=[Depends(needs(*Role))])

    @router.get("/metrics")
    def metrics() -> Response:
        """Prometheus text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router

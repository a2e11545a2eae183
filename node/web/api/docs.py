"""`GET /docs`: the OpenAPI page, from files of a package: nothing is asked of another host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, Response

from node.ledger.tokens import Role
from node.web.auth import needs
from node.web.problems import Problem

FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon.png": "image/png",
}
_FROM_HERE = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_START = """window.ui = SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null, tryItOutEnabled: true, persistAuthorization: false,
});
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Radnode API</title>
<link rel="icon" href="/docs/favicon.png"><link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><main id="page"></main><script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body></html>
"""


def routes() -> APIRouter:
    """The page and its files, for everybody who is in."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(needs(*Role))])
    folder = _folder()

    @router.get("/docs")
    def page() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _FROM_HERE})

    @router.get("/docs/start.js")
    def start() -> Response:
        return Response(_START, media_type="text/javascript")

    @router.get("/docs/{file}")
    def asset(file: str) -> FileResponse:
        if file not in FILES:
            raise Problem(404, "There is no such file; /docs is the page.")
        return FileResponse(folder / file, media_type=FILES[file], headers={"Cache-Control": "private, max-age=86400"})

    return router


def describe(app: FastAPI) -> None:
    """Say in the OpenAPI document how to come in, and what a problem looks like."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_ABOUT)
            parts = schema.setdefault("components", {})
            parts.setdefault("schemas", {})["Problem"] = _PROBLEM
            parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"token": []}]
            app.openapi_schema = json.loads(json.dumps(schema).replace(_THEIRS, _OURS))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


_ABOUT = "Studies are named by their clean Study Instance UID, patients by a pseudonym. Research use only, not for diagnosis."
_THEIRS, _OURS = "#/components/schemas/HTTPValidationError", "#/components/schemas/Problem"
_PROBLEM = {
    "type": "object",
    "description": "What went wrong, and what to do about it (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"at": {"type": "string"}, "what": {"type": "string"}}},
        },
    },
}


def _folder() -> Path:
    return Path(fastapi_offline.__file__).parent / "static"

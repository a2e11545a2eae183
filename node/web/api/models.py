"""`/api/v1/models`: the versions of every pipeline's bundle, and who decided what about them. Nothing of a patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute

from node.errors import NotThere
from node.ledger.tokens import Role
from node.shelf import Standing
from node.web.api.parts import ApiParts
from node.web.api.route import takes_a_key
from node.web.api.words import MISSING, REFUSED, Done, Listed, Name, Why
from node.web.auth import needs
from node.web.notes import Notes


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionShown:
    """One installed version and how it stands."""

    version: str
    state: str  #: active, shadow, retired
    digest: str
    since: datetime | None  #: of the decision; None: nobody has decided
    by: str
    reason: str
    trouble: str  #: why it does not run although its state says so
    title: str
    labels: Sequence[str]
    licence: Mapping[str, Any]
    intended_use: Mapping[str, Any]
    model_card: str  #: Markdown


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShown:
    """A pipeline and its versions, the newest last."""

    pipeline: str
    active: str
    versions: Sequence[VersionShown]


def routes(parts: ApiParts, notes: Notes, route: type[APIRoute]) -> APIRouter:
    """The shelf. Every decision is in the audit trail, with its reason, before the answer."""
    router = APIRouter(prefix="/models", tags=["models"], route_class=route)
    anybody, admin = [Depends(needs(*Role))], [Depends(needs()), Depends(takes_a_key)]
    refusals = {**MISSING, **REFUSED}

    @router.get("", dependencies=anybody)
    def find() -> Listed[ModelShown]:
        """Every pipeline with its versions, their state and their card."""
        return Listed(items=models(parts), next="")

    @router.get("/{pipeline}", responses={**MISSING}, dependencies=anybody)
    def one(pipeline: Name) -> ModelShown:
        """One pipeline."""
        found = next((model for model in models(parts) if model.pipeline == pipeline), None)
        if found is None:
            raise NotThere
        return found

    @router.post("/{pipeline}/versions/{version}/promote", responses=refusals, dependencies=admin)
    def promote(pipeline: Name, version: Name, why: Why, request: Request) -> Done:
        """Its results go home from the next study on; the version before retires."""
        parts.shelf.promote(pipeline, version, who=notes.who(request), reason=why.reason)
        return Done(done="active", what=[pipeline, version])

    @router.post("/{pipeline}/versions/{version}/shadow", responses=refusals, dependencies=admin)
    def shadow(pipeline: Name, version: Name, why: Why, request: Request) -> Done:
        """It runs beside the active one; its results are kept and delivered nowhere."""
        parts.shelf.shadow(pipeline, version, who=notes.who(request), reason=why.reason)
        return Done(done="shadow", what=[pipeline, version])

    @router.post("/{pipeline}/versions/{version}/retire", responses=refusals, dependencies=admin)
    def retire(pipeline: Name, version: Name, why: Why, request: Request) -> Done:
        """It runs no more. What it found stays."""
        parts.shelf.retire(pipeline, version, who=notes.who(request), reason=why.reason)
        return Done(done="retired", what=[pipeline, version])

    @router.post("/{pipeline}/rollback", responses=refusals, dependencies=admin)
    def rollback(pipeline: Name, why: Why, request: Request) -> Done:
        """The version that was active before the present one is active again."""
        version = parts.shelf.rollback(pipeline, who=notes.who(request), reason=why.reason)
        return Done(done="active", what=[pipeline, version])

    return router


def models(parts: ApiParts) -> list[ModelShown]:
    """For the page too."""
    return [
        ModelShown(
            pipeline=name,
            active=next((one.installed.version for one in versions if one.state.value == "active" and not one.trouble), ""),
            versions=[_shown(one) for one in versions],
        )
        for name, versions in sorted(parts.shelf.all().items())
    ]


def _shown(one: Standing) -> VersionShown:
    bundle, decided = one.installed.bundle, one.decided
    return VersionShown(
        version=one.installed.version,
        state=one.state.value,
        digest=one.installed.digest,
        since=decided.at if decided else None,
        by=decided.who if decided else "",
        reason=decided.reason if decided else "",
        trouble=one.trouble,
        title=bundle.title if bundle else "",
        labels=bundle.labels if bundle else (),
        licence=bundle.licence if bundle else {},
        intended_use=bundle.intended_use if bundle else {},
        model_card=bundle.model_card if bundle else "",
    )

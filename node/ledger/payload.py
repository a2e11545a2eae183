"""A job as text: what crosses to a worker process or a queue. Clean data only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from node.codes import Code
from node.domain import Algorithm, CleanUid, Job, JobState, Priority, Pseudonym, ReadingLink, Role, Route, SendIf, StudyRef, WrittenObject
from node.off_peak import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A written object and the SHA-256 of its bytes, hexadecimal."""

    object: WrittenObject
    sha256: str


def job_to_json(job: Job) -> str:
    """The whole job, for `job_from_json` on the other side."""
    return json.dumps(
        {
            "id": job.id,
            "study": job.study.study,
            "revision": job.study.revision,
            "pseudonym": job.pseudonym,
            "folder": str(job.folder),
            "route": route_to_dict(job.route),
            "algorithm": algorithm_to_dict(job.algorithm),
            "inputs": list(job.inputs),
            "state": job.state.value,
            "attempts": job.attempts,
            "reason": job.reason,
            "predecessor": job.predecessor,
            "not_before": job.not_before.isoformat() if job.not_before else "",
            "shadow": job.shadow,
            "reading_link": reading_link_to_dict(job.reading_link),
            "told": dict(job.told),
            "picture": job.picture,
        }
    )


def job_from_json(text: str) -> Job:
    """The job again."""
    facts = json.loads(text)
    return Job(
        id=facts["id"],
        study=StudyRef(study=CleanUid(facts["study"]), revision=facts["revision"]),
        pseudonym=Pseudonym(facts["pseudonym"]),
        folder=Path(facts["folder"]),
        route=route_from_dict(facts["route"]),
        algorithm=algorithm_from_dict(facts["algorithm"]),
        inputs=tuple(CleanUid(uid) for uid in facts["inputs"]),
        state=JobState(facts["state"]),
        attempts=facts["attempts"],
        reason=facts["reason"],
        predecessor=facts["predecessor"],
        not_before=datetime.fromisoformat(facts["not_before"]) if facts["not_before"] else None,
        shadow=facts["shadow"],
        reading_link=reading_link_from_dict(facts.get("reading_link")),
        told=facts.get("told", {}),
        picture=facts.get("picture", False),
    )


def made_to_dict(made: Made) -> dict[str, str]:
    """A written object as JSON values."""
    written = made.object
    return {
        "sha256": made.sha256,
        "job": written.job,
        "study": written.study,
        "role": written.role.value,
        "sop_class_uid": written.sop_class_uid,
        "sop_instance_uid": written.sop_instance_uid,
        "path": str(written.path),
    }


def made_from_dict(facts: dict[str, str]) -> Made:
    """The written object again."""
    written = WrittenObject(
        job=facts["job"],
        study=CleanUid(facts["study"]),
        role=Role(facts["role"]),
        sop_class_uid=facts["sop_class_uid"],
        sop_instance_uid=facts["sop_instance_uid"],
        path=Path(facts["path"]),
    )
    return Made(object=written, sha256=facts["sha256"])


def route_to_dict(route: Route) -> dict[str, object]:
    """A route as JSON values."""
    return {
        "rule": route.rule,
        "series": route.series,
        "pipeline": route.pipeline,
        "destinations": list(route.destinations),
        "priority": route.priority.value,
        "reasons": list(route.reasons),
        "kinds": kinds_to_list(route),
        "between": [str(window) for window in route.between],
        "send_if": send_if_to_list(route.send_if),
    }


def route_from_dict(facts: Mapping[str, object]) -> Route:
    """The route again."""
    return Route(
        rule=str(facts["rule"]),
        series=CleanUid(str(facts["series"])),
        pipeline=str(facts["pipeline"]),
        destinations=_texts(facts["destinations"]),
        priority=Priority(str(facts["priority"])),
        reasons=_texts(facts["reasons"]),
        kinds=_kinds(facts.get("kinds")),
        between=tuple(Window.of(text) for text in _texts(facts.get("between", ()))),
        send_if=send_if_from_list(facts["send_if"]),
    )


def kinds_to_list(route: Route) -> list[list[object]]:
    """What each destination gets, as JSON values."""
    return [[name, [role.value for role in roles]] for name, roles in route.kinds]


def send_if_to_list(send_if: Iterable[SendIf]) -> list[dict[str, object]]:
    """What findings send on, as JSON values."""
    return [{**asdict(one), "destinations": list(one.destinations)} for one in send_if]


def send_if_from_list(facts: Any) -> tuple[SendIf, ...]:
    """The same again."""
    return tuple(SendIf(**{**one, "destinations": _texts(one["destinations"])}) for one in facts)


def reading_link_to_dict(link: ReadingLink | None) -> dict[str, str] | None:
    """A link as JSON values."""
    return {"url": link.url, "until": link.until.isoformat()} if link else None


def reading_link_from_dict(facts: Mapping[str, str] | None) -> ReadingLink | None:
    """The link again."""
    return ReadingLink(url=facts["url"], until=datetime.fromisoformat(facts["until"])) if facts else None


def algorithm_to_dict(algorithm: Algorithm) -> dict[str, object]:
    """An algorithm as JSON values; its family as value, scheme, meaning."""
    family = algorithm.family
    return {
        "name": algorithm.name,
        "version": algorithm.version,
        "digest": algorithm.digest,
        "family": [family.value, family.scheme_designator, family.meaning],
        "source": algorithm.source,
    }


def algorithm_from_dict(facts: dict[str, object]) -> Algorithm:
    """The algorithm again."""
    return Algorithm(
        name=str(facts["name"]),
        version=str(facts["version"]),
        digest=str(facts["digest"]),
        family=Code(*_texts(facts["family"])),
        source=str(facts["source"]),
    )


def _kinds(values: object) -> tuple[tuple[str, tuple[Role, ...]], ...]:
    """Jobs of a release before profiles have none."""
    return tuple((str(name), tuple(Role(role) for role in roles)) for name, roles in values) if isinstance(values, list | tuple) else ()


def _texts(values: object) -> tuple[str, ...]:
    return tuple(str(value) for value in values) if isinstance(values, list | tuple) else ()

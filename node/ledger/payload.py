"""A job as text: what crosses to a worker process or a queue. Clean data only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from node.codes import Code
from node.domain import Algorithm, CleanUid, Job, JobState, Priority, Pseudonym, Role, Route, StudyRef, WrittenObject


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
            "shadow": job.shadow,
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
        shadow=facts["shadow"],
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
    }


def route_from_dict(facts: dict[str, object]) -> Route:
    """The route again."""
    return Route(
        rule=str(facts["rule"]),
        series=CleanUid(str(facts["series"])),
        pipeline=str(facts["pipeline"]),
        destinations=_texts(facts["destinations"]),
        priority=Priority(str(facts["priority"])),
        reasons=_texts(facts["reasons"]),
    )


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


def _texts(values: object) -> tuple[str, ...]:
    return tuple(str(value) for value in values) if isinstance(values, list | tuple) else ()

"""What this node can do, for whoever wants to ask it: pipelines, their labels and models, and what is taken at once. Nothing of a patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import node
from node.assembly import House
from node.bundle import Bundle
from node.domain import VersionState
from node.imaging.clinical import NUMBERS, SEXES
from node.imaging.plain import SOP_CLASS
from node.shelf import Standing
from node.uploads import Kind


def abilities(house: House) -> dict[str, Any]:
    """In JSON values, as `GET /meta` answers."""
    standings = house.shelf.all()
    predict = house.settings.predict
    return {
        "node": node.__version__,
        "pipelines": [_pipeline(house, name, bundle, standings.get(name, ())) for name, bundle in sorted(house.bundles.items())],
        "clinical": {
            **{name: f"{number.low:g} to {number.high:g}" for name, number in NUMBERS.items()},
            "sex": " or ".join(dict.fromkeys(SEXES.values())),
            "view": "View Position (0018,5101), such as PA, AP or LATERAL",
        },
        "limits": {
            "upload_mb": house.settings.web.max_upload_mb,
            "files": predict.max_files,
            "requests_at_once": predict.most_at_once,
            "wait_s": predict.wait_s,
            "timeout_s": predict.timeout_s,
        },
    }


def _pipeline(house: House, name: str, bundle: Bundle, versions: Sequence[Standing]) -> dict[str, Any]:
    kind = house.kind_of(name, bundle)
    codes = kind.codes_of(bundle)
    trained = bundle.node.get("trained", bundle.labels)
    use, licence = bundle.intended_use, bundle.licence
    plain = any(str(modality) in SOP_CLASS for modality in use.get("modality", ()))
    return {
        "name": name,
        "title": bundle.title,
        "version": bundle.version,
        "digest": bundle.digest,
        "versions": [_version(one) for one in versions],
        "takes": kind.takes.value,
        "accepts": [Kind.DICOM.value, *([Kind.PNG.value, Kind.JPEG.value] if plain else [])],
        "labels": [
            {
                "name": label,
                "code": {"value": codes[label].value, "scheme": codes[label].scheme_designator, "meaning": codes[label].meaning}
                if label in codes
                else None,
                "trained": label in trained,
            }
            for label in bundle.labels
        ],
        "intended_use": dict(use),
        "clinical": [str(one) for one in bundle.node.get("clinical", ())],
        "licence": {"name": licence.get("name"), "non_commercial": licence.get("non_commercial")},
        "research_only": bool(bundle.node.get("research_only", True)),
        "model_card": bundle.model_card,
    }


def _version(one: Standing) -> dict[str, Any]:
    return {
        "version": one.installed.version,
        "state": VersionState(one.state).value,
        "digest": one.installed.digest,
        "trouble": one.trouble or one.installed.trouble or None,
    }

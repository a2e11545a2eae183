"""Which licence a bundle names, and whether it forbids commercial use: read from its files, in the words that licences begin with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILES = (
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "license.txt",
    "docs/license.txt",
    "docs/data_license.txt",
    "docs/LICENSE",
    "data_license.txt",
)
KNOWN = (
    (r"Apache License\s+Version 2\.0|Apache-2\.0", "Apache-2.0"),
    (r"\bMIT License\b", "MIT"),
    (r"BSD 3-Clause|Redistribution and use in source and binary forms", "BSD"),
    (r"CC[- ]BY[- ]NC[- ]SA|Attribution-NonCommercial-ShareAlike", "CC BY-NC-SA"),
    (r"CC[- ]BY[- ]NC[- ]ND", "CC BY-NC-ND"),
    (r"CC[- ]BY[- ]NC|Attribution-NonCommercial", "CC BY-NC"),
    (r"CC[- ]BY[- ]SA|Attribution-ShareAlike", "CC BY-SA"),
    (r"CC[- ]BY[ -]|Creative Commons Attribution", "CC BY"),
    (r"\bCC0\b", "CC0"),
    (r"GNU (AFFERO )?GENERAL PUBLIC LICENSE", "GPL"),
)
NON_COMMERCIAL = re.compile(r"non-?\s?commercial|\bNC\b|research (use|purposes) only", re.IGNORECASE)


def licence_of(folder: Path, metadata: Mapping[str, Any], told: Any = None) -> dict[str, Any]:
    """`{"name", "non_commercial", "text"}`; what the mapping file says is believed."""
    texts = {name: (folder / name).read_text(encoding="utf-8", errors="replace")[:20000] for name in FILES if (folder / name).is_file()}
    found = [name for text in texts.values() if (name := _first(text))]
    said = str(metadata.get("license") or metadata.get("licence") or "")
    name = " and ".join(dict.fromkeys(found)) or said or ("see " + next(iter(texts)) if texts else "not stated")
    limited = any(NON_COMMERCIAL.search(text[:4000]) for text in (*texts.values(), said))
    chosen = {"name": name, "non_commercial": limited, "text": next(iter(texts), "")}
    if isinstance(told, str):
        return chosen | {"name": told, "non_commercial": bool(NON_COMMERCIAL.search(told))}
    return chosen | {key: told[key] for key in ("name", "non_commercial") if isinstance(told, Mapping) and key in told}


def _first(text: str) -> str:
    """The licence that the text begins with, the most special one of several."""
    return next((name for pattern, name in KNOWN if re.search(pattern, text, re.IGNORECASE)), "")

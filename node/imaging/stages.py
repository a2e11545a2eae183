"""Several networks that work one after another, kept as one: one weights file, one digest."""

from __future__ import annotations

from typing import Any


def stages(**networks: Any) -> Any:
    """A torch module that holds `networks` (torch modules) under their names; `Bundle.stages` hands them out one by one."""
    from torch import nn

    return nn.ModuleDict(networks)

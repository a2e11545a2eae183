"""Words in Series Description (0008,103E), as the de-identifier left it."""

from __future__ import annotations

from node.conditions.interface import Words


class SeriesDescription(Words):
    """Words in Series Description (0008,103E)."""

    name = "series_description"
    keyword = "SeriesDescription"
    help = "whole words, or a pattern with * and ?; one or a list"
    reads = ("SeriesDescription",)

"""Words in Study Description (0008,1030), as the de-identifier left it."""

from __future__ import annotations

from node.conditions.interface import Words


class StudyDescription(Words):
    """Words in Study Description (0008,1030)."""

    name = "study_description"
    keyword = "StudyDescription"
    help = "whole words, or a pattern with * and ?; one or a list"
    reads = ("StudyDescription",)

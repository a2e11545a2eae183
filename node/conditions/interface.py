"""What a rule may ask of a series. One file a condition; its file name is the key in the rules' YAML."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from node.domain import Series, Study


class Condition(ABC):
    """A question with a typed answer. Pure: reads clean headers only, never pixels, files or the clock."""

    help: ClassVar[str]  #: one line for `radnode explain` and the documentation

    @classmethod
    @abstractmethod
    def parse(cls, value: Any) -> Condition:
        """The condition from its YAML value. Raises ValueError with a sentence that says what is allowed."""

    @abstractmethod
    def ask(self, study: Study, series: Series) -> tuple[bool, str]:
        """Whether the series meets it, and why, in words without a patient: `modality CT is one of CT, PT`."""

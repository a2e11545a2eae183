"""A destination: where named objects go. One file a kind; its file name is `kind:` in the settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import BaseModel


class Destination(ABC):
    """Takes whole DICOM files (PS3.10 bytes). Safe to call twice with the same object."""

    Settings: ClassVar[type[BaseModel]]  #: frozen, extra="forbid"; the keys beside `kind:` in the settings
    keeps_objects: ClassVar[bool] = True  #: False: it takes what a report says, in another language, and passes other objects by

    def __init__(self, name: str, settings: Any) -> None:
        self.name = name
        self.settings = settings

    @abstractmethod
    def send(self, part10: bytes) -> str:
        """Deliver one object; returns how it was confirmed, in a few words without a patient ("C-STORE 0x0000").

        Raises
        ------
        DeliveryFailed
            For now: no answer, out of resources (0xA7xx), HTTP 5xx. It is tried again.
        DeliveryRefused
            For good: SOP class not supported, HTTP 4xx. The reason is shown.
        """

    def confirm(self, sop_class_uid: str, sop_instance_uid: str, study_instance_uid: str) -> bool | None:
        """Whether the destination holds the object; None when it can't be asked."""
        return None

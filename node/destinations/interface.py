"""A destination: where named objects go. One file a kind; its file name is `kind:` in the settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from node.errors import DeliveryFailed


class Destination(ABC):
    """Takes whole DICOM files (PS3.10 bytes). Safe to call twice with the same object."""

    Settings: ClassVar[type[BaseModel]]  #: frozen, extra="forbid"; the keys beside `kind:` in the settings

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

    def probe(self, sop_classes: Sequence[str]) -> Mapping[str, tuple[str, ...]] | None:
        """Which of the SOP Classes are taken, each with the Transfer Syntax UIDs; None when the way there does not say it beforehand.

        Raises DeliveryFailed or DeliveryRefused when the destination does not answer.
        """
        return None

    def confirm(self, sop_class_uid: str, sop_instance_uid: str, study_instance_uid: str) -> bool | None:
        """Whether the destination holds the object; None when it can't be asked."""
        return None

    def echo(self) -> str:
        """Ask whether the destination is there, and send nothing; returns what it answered, in a few words.

        Raises
        ------
        DeliveryFailed, DeliveryRefused
            No answer, or one that says no.
        """
        raise DeliveryFailed("this kind of destination can't be asked", destination=self.name)

    def described(self) -> dict[str, Any]:
        """The settings as anybody may see them: without secrets, nor such as stand in a URL."""
        shown: dict[str, Any] = {}
        for name in type(self.settings).model_fields:
            value = getattr(self.settings, name)
            if isinstance(value, SecretStr):
                shown[name] = "(set)"
            elif value is None or isinstance(value, bool | int | float):
                shown[name] = value
            elif isinstance(value, BaseModel):
                shown[name] = value.model_dump(mode="json", exclude={"key_file"})
            else:
                shown[name] = _without_user(str(value))
        return shown


def _without_user(text: str) -> str:
    """`https://user:secret@host/x` as `https://host/x`."""
    parts = urlsplit(text) if "://" in text else None
    if parts is None or "@" not in parts.netloc:
        return text
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

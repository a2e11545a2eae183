"""A pipeline: a volume in, a Result out. One file each; its file name is the pipeline's name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, NewType

from node.bundle import Bundle
from node.codes import Code
from node.domain import Result
from node.imaging.volume import Volume

Model = NewType("Model", object)  #: loaded weights, only inside a worker


class Takes(StrEnum):
    """What the pipeline is given: a whole series as one volume, or each image of a series by itself."""

    VOLUME = "volume"
    IMAGE = "image"


class Pipeline(ABC):
    """Importing a pipeline is cheap (no torch at module level); `load` is dear and happens once per worker."""

    takes: ClassVar[Takes]
    label_codes: ClassVar[Mapping[str, Code]] = {}  #: of the bundle's labels, as its findings carry them

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @classmethod
    def codes_of(cls, bundle: Bundle) -> Mapping[str, Code]:
        """The coded concept of each label, as far as it is known before anything is found."""
        return cls.label_codes

    @abstractmethod
    def load(self, device: str) -> Any:
        """The model, warm on `device` ("cpu", "cuda:0")."""

    @abstractmethod
    def run(self, volume: Volume, model: Any) -> Result:
        """What the model finds. Raises NotAnalysed with the reason when the volume is outside its intended use."""

"""What kind of image: any value of Image Type (0008,0008)."""

from __future__ import annotations

from collections.abc import Sequence

from node.conditions.interface import OneOf, values_in
from node.domain import Series, Study


class ImageType(OneOf):
    """What kind of image: any value of Image Type (0008,0008)."""

    name = "image_type"
    help = "ORIGINAL, DERIVED, AXIAL, LOCALIZER …; one or a list"
    reads = ("ImageType",)

    def found(self, study: Study, series: Series) -> Sequence[str]:
        return values_in(series, "ImageType")

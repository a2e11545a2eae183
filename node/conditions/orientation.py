"""How the slices lie: from Image Orientation (Patient) (0020,0037)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from node.conditions.interface import OneOf, numbers_in
from node.domain import Series, Study

NAMES = ("SAGITTAL", "CORONAL", "AXIAL")  #: by the LPS axis that the normal follows
OBLIQUE_BELOW = 0.8  #: cosine; a normal further than 37 degrees from every axis is oblique


class Orientation(OneOf):
    """How the slices lie: axial, coronal, sagittal or oblique."""

    name = "orientation"
    allowed = (*NAMES, "OBLIQUE")
    help = "axial, coronal, sagittal or oblique; one or a list"
    reads = ("PlaneOrientationSequence", "ImageOrientationPatient")

    def found(self, study: Study, series: Series) -> Sequence[str]:
        cosines = numbers_in(series.header, "ImageOrientationPatient", "PlaneOrientationSequence")
        if len(cosines) != 6:
            return []
        normal = np.abs(np.cross(cosines[:3], cosines[3:]))
        along = int(normal.argmax())
        return [NAMES[along] if normal[along] >= OBLIQUE_BELOW else "OBLIQUE"]

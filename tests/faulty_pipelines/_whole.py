"""What the pipelines of this room have in common: a model that remembers how often it was used, and a finding."""

from __future__ import annotations

import numpy as np

from node import codes
from node.domain import Finding, Heatmap, Measurement, Result, Segment
from node.imaging.volume import Volume


def bright_part(volume: Volume) -> Result:
    """Everything above the mean is a lesion: enough for a SEG, an SC and an SR."""
    grey = volume.pixels if volume.pixels.ndim == 3 else volume.pixels.mean(axis=3)
    mask = grey > grey.mean()
    share = float(mask.mean())
    return Result(
        analysed=True,
        label="lesion",
        confidence=share,
        findings=(
            Finding(
                name="lesion",
                code=codes.LESION,
                probability=share,
                present=True,
                site=codes.CHEST,
                measurements=(Measurement(name=codes.AREA, value=round(100 * share, 3), unit=codes.PERCENT),),
                segment=1,
            ),
        ),
        segments=(
            Segment(
                number=1,
                label="Lesion",
                mask=mask,
                category=codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE,
                type=codes.LESION,
                color=(230, 159, 0),
            ),
        ),
        heatmap=Heatmap(title="Brightness", values=mask.astype(np.float32), frames=(0,)),
        notes=volume.notes,
    )

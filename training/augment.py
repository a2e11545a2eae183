"""Random changes of a grey picture and its mask, drawn from one generator; grey is 0 to 1."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]


def placed(
    image: Picture,
    mask: Picture,
    size: int,
    rng: np.random.Generator,
    *,
    rotate_deg: float,
    scale: tuple[float, float],
    flip_vertical: float = 0.0,
    stretch: float = 0.1,
    elastic: float = 0.0,
    fills: tuple[float, ...] = (0.0,),
) -> tuple[Picture, Picture]:
    """Picture and mask on a `size` x `size` canvas: turned, scaled, moved, mirrored, bent.

    What the picture does not cover is one of `fills`, or its own edge drawn out (value below zero).
    """
    rows, columns = image.shape
    fit = size / max(rows, columns)
    zoom = fit * rng.uniform(*scale)
    angle = np.deg2rad(rng.uniform(-rotate_deg, rotate_deg))
    sx, sy = zoom * np.exp(rng.uniform(-stretch, stretch, 2))
    mirror_x = -1.0 if rng.random() < 0.5 else 1.0
    mirror_y = -1.0 if rng.random() < flip_vertical else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([sx * mirror_x, sy * mirror_y])
    slack_x, slack_y = size - columns * sx, size - rows * sy
    shift = np.array([rng.uniform(-0.5, 0.5) * max(abs(slack_x), 0.1 * size), rng.uniform(-0.5, 0.5) * max(abs(slack_y), 0.1 * size)])
    if rng.random() < 0.4:
        shift *= 0.1
    centre = np.array([columns / 2 - 0.5, rows / 2 - 0.5])
    offset = np.array([size / 2 - 0.5, size / 2 - 0.5]) + shift - linear @ centre
    forward = np.vstack([np.column_stack([linear, offset]), [0, 0, 1]])
    back = np.linalg.inv(forward)[:2]
    grid_x, grid_y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    if elastic > 0 and rng.random() < 0.5:
        bend = rng.normal(0, elastic * size, (2, 6, 6)).astype(np.float32)
        grid_x += cv2.resize(bend[0], (size, size), interpolation=cv2.INTER_CUBIC)
        grid_y += cv2.resize(bend[1], (size, size), interpolation=cv2.INTER_CUBIC)
    map_x = (back[0, 0] * grid_x + back[0, 1] * grid_y + back[0, 2]).astype(np.float32)
    map_y = (back[1, 0] * grid_x + back[1, 1] * grid_y + back[1, 2]).astype(np.float32)
    fill = float(rng.choice(np.asarray(fills)))
    if zoom < 0.8:
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)  # type: ignore[assignment]
    border = cv2.BORDER_CONSTANT if fill >= 0 else cv2.BORDER_REPLICATE
    picture = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=border, borderValue=fill)
    target = cv2.remap(mask, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(picture, np.float32), (np.asarray(target) > 0.5).astype(np.float32)


def shaded(
    image: Picture,
    rng: np.random.Generator,
    *,
    gain: float = 0.1,
    bias: float = 0.05,
    gamma: float = 0.2,
    noise: float = 0.05,
    blur: float = 0.3,
) -> Picture:
    """Another window, another kernel, another noise."""
    out = np.clip(image, 0, 1) ** np.exp(rng.uniform(-gamma, gamma))
    out = out * (1 + rng.uniform(-gain, gain)) + rng.uniform(-bias, bias)
    if rng.random() < blur:
        if rng.random() < 0.5:
            out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.4))
        else:
            soft = cv2.GaussianBlur(out, (0, 0), 1.5)
            out = out + rng.uniform(0.2, 1.0) * (out - soft)
    if rng.random() < 0.5:
        grain = rng.normal(0, rng.uniform(0, noise), image.shape).astype(np.float32)
        if rng.random() < 0.5:
            grain = cv2.GaussianBlur(grain, (0, 0), 0.8) * 2  # type: ignore[assignment]
        out = out + grain
    return np.clip(out, 0, 1).astype(np.float32)

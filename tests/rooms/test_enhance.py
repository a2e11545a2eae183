"""Enhancement: noise is measured and taken away, detail stays, and what can't be enhanced comes back as it was."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from node.imaging.enhance import Noise, denoised, enhanced, noise_of
from node.testing.phantom_chest_ct import chest_ct


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """A smooth part of a chest, 0.1 to 0.9: ribs, vessels and the edges of lungs, without noise of its own."""
    hu = chest_ct(slices=24, slice_mm=10.0, noise_hu=0.0).hu.astype(np.float32)
    along = hu.mean(axis=1)[::-1]
    plane = cv2.resize(along, (256, 256), interpolation=cv2.INTER_CUBIC)
    return np.asarray(0.1 + 0.8 * (plane - plane.min()) / (plane.max() - plane.min()), np.float32)


def noisy(film: np.ndarray, gain: float, deviation: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.poisson(film / gain) * gain + rng.normal(0, deviation, film.shape), 0, 1).astype(np.float32)


@pytest.mark.parametrize(("gain", "deviation"), [(0.002, 0.01), (0.005, 0.02)])
def test_the_noise_of_a_film_is_measured_on_the_film(film: np.ndarray, gain: float, deviation: float) -> None:
    found = noise_of(noisy(film, gain, deviation))

    for grey in (0.3, 0.8):
        assert found.gain * grey + found.floor == pytest.approx(gain * grey + deviation**2, rel=0.3)


@pytest.mark.parametrize(("gain", "deviation"), [(0.002, 0.01), (0.005, 0.02), (0.015, 0.04)])
def test_less_noise_and_more_detail_than_a_median_leaves(film: np.ndarray, gain: float, deviation: float) -> None:
    seen = noisy(film, gain, deviation)
    median = cv2.medianBlur(seen, 3)

    ours = denoised(seen)

    assert peak_signal_noise_ratio(film, ours, data_range=1) > peak_signal_noise_ratio(film, median, data_range=1) + 1
    assert structural_similarity(film, ours, data_range=1) > structural_similarity(film, median, data_range=1)


def test_bending_grey_and_back_is_exact_but_for_the_bias_of_averages(film: np.ndarray) -> None:
    noise = Noise(0.004, 0.0003)

    np.testing.assert_allclose(noise.restored(noise.flattened(film)), film, atol=0.002)
    assert noise.flattened(noisy(film, 0.004, 0.0173))[:64].std() > 1  # deviations of 1 and the picture itself


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_film_of_one_grey_comes_back(value: float) -> None:
    film = np.full((80, 90), value, np.float32)

    np.testing.assert_array_equal(denoised(film), film)
    assert np.isfinite(enhanced(film)).all()


def test_enhancing_widens_local_contrast_and_keeps_the_grid(film: np.ndarray) -> None:
    shown = enhanced(noisy(film * 0.3 + 0.3, 0.002, 0.01))

    assert (shown.shape, shown.dtype) == (film.shape, np.dtype(np.float32))
    assert 0 <= shown.min() < shown.max() <= 1
    assert shown.std() > 1.3 * (film * 0.3).std()

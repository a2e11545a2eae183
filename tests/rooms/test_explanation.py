"""Two ways to ask where a network looks: each finds what the network answers to, and they notice when they differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from node.networks.explanation import AGREE, Floats, agreement, grad_cam, occlusion


class AnswersTo(torch.nn.Module):
    """The brightness of one corner of the picture."""

    def __init__(self, rows: slice, columns: slice) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        torch.nn.init.constant_(self.layer.weight, 1 / 9)
        self.rows, self.columns = rows, columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        told = torch.relu(self.layer(x))[..., self.rows, self.columns].mean(dim=(1, 2, 3))
        return torch.stack([-told, told], dim=1)


@pytest.fixture
def picture() -> Floats:
    """Two bright squares; the network looks at the upper one."""
    out = np.zeros((1, 70, 70), np.float32)
    out[0, 10:30, 40:60] = out[0, 45:65, 5:25] = 1
    return out


NETWORK = AnswersTo(slice(5, 35), slice(35, 65)).eval()


def test_occlusion_finds_the_square_that_the_answer_hangs_on(picture: Floats):
    heat = occlusion(NETWORK, picture, 1)

    assert heat.shape == (70, 70)
    assert heat[10:30, 40:60].min() > 0.2
    assert heat[45:65, 5:25].max() == pytest.approx(0, abs=0.05)


def test_what_speaks_against_the_answer_is_no_place(picture: Floats):
    assert occlusion(NETWORK, picture, 0)[10:30, 40:60].max() == pytest.approx(0, abs=0.05)


def test_both_agree_about_a_network_that_looks_at_one_place():
    one = np.zeros((1, 70, 70), np.float32)
    one[0, 10:30, 40:60] = 1

    assert agreement(grad_cam(NETWORK, "layer", one, 1), occlusion(NETWORK, one, 1)) > AGREE


def test_maps_of_different_places_do_not_agree(picture: Floats):
    here, there = np.zeros((70, 70), np.float32), np.zeros((70, 70), np.float32)
    here[:20, :20], there[50:, 50:] = 1, 1

    assert agreement(here, there) < AGREE
    assert agreement(here, np.zeros_like(here)) == 0
    assert agreement(here, here) == pytest.approx(1)


def test_a_picture_that_is_no_square_is_covered_whole():
    one = np.ones((1, 64, 90), np.float32)

    assert occlusion(AnswersTo(slice(0, 64), slice(60, 90)).eval(), one * 0 + np.linspace(0, 1, 90, dtype=np.float32), 1)[:, 75:].min() > 0

"""Where does a network look? Asked in two ways that share nothing: by its gradients (Grad-CAM), and by covering parts of the picture."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

PARTS = 7  #: along each side of the picture: so many squares are covered, one after the other
AGREE = 0.3  #: rank correlation of the two maps below which the reader is told not to lean on either
DISAGREE = "Covering parts of the image (occlusion) points elsewhere than the heatmap (Grad-CAM): do not take the heatmap for a place."


def grad_cam(module: Any, layer: str, picture: Floats, output: int) -> Floats:
    """Grad-CAM (Selvaraju et al., 2017; MONAI): of the picture and its mirror image, averaged.

    Parameters
    ----------
    module : a torch module that takes (batch, channels, rows, columns) alone
    layer : whose activations are weighed
    picture : (channels, rows, columns)
    output : the column of the answer that is asked about

    Returns
    -------
    float32 array, (rows, columns), 0 to 1
    """
    import torch
    from monai.visualize import GradCAM

    cam = GradCAM(nn_module=module, target_layers=layer, postprocessing=lambda x: x)
    given = _on_device(module, picture)
    maps = []
    with torch.enable_grad():
        for mirrored in (False, True):
            heat = cam((given.flip(-1) if mirrored else given).clone().requires_grad_(True), class_idx=output)
            maps.append((heat.flip(-1) if mirrored else heat)[0, 0].detach().cpu().numpy())
    return _from_0_to_1(np.mean(maps, axis=0))


def occlusion(module: Any, picture: Floats, output: int) -> Floats:
    """How much of the answer is lost when a square is covered with the picture's mean (Zeiler and Fergus, 2014; MONAI).

    Parameters and result as those of `grad_cam`, with squares of a `PARTS`th of each side.
    """
    import torch
    from monai.visualize import OcclusionSensitivity

    size = [-(-side // PARTS) for side in picture.shape[1:]]
    cover = OcclusionSensitivity(module, mask_size=size, n_batch=PARTS, verbose=False, mode="mean_img", overlap=0.0, activate=False)
    given = _on_device(module, picture)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch, about how MONAI picks the squares
        covered, _ = cover(given)
        whole = float(module(given)[0, output])
    return _from_0_to_1(whole - covered[0, output].float().cpu().numpy())


def agreement(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation of two maps over `PARTS` x `PARTS` squares, -1 to 1; 0 when one of them is flat."""
    import cv2
    from scipy.stats import rankdata

    ranks = [rankdata(cv2.resize(heat, (PARTS, PARTS), interpolation=cv2.INTER_AREA)) for heat in (one, other)]
    if min(float(rank.std()) for rank in ranks) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _on_device(module: Any, picture: Floats) -> Any:
    import torch

    return torch.from_numpy(picture)[None].to(next(module.parameters()).device)


def _from_0_to_1(heat: NDArray[Any]) -> Floats:
    positive = np.maximum(heat, 0)
    return np.asarray(positive / max(float(positive.max()), 1e-6), np.float32)

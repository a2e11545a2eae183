"""What a network said, as the node wants to hear it: labels on the source's grid, probabilities, boxes, or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, SpatialResample
from monai.transforms.utils import scale_affine
from numpy.typing import NDArray

from node.guests._process.refusal import Refusal

Answer = tuple[dict[str, Any], dict[str, NDArray[Any]]]
MOST_BOXES = 100
NAMES = ("pred", "out")  #: what the output that counts is called beside others, by MONAI and torchvision
KINDS = (("score", "score"), ("prob", "score"), ("conf", "score"), ("box", "box"), ("label", "label"), ("class", "label"))


@dataclass(frozen=True, slots=True)
class Given:
    """What the network was given: where its grid lies, and the source that it was made from."""

    source: MetaTensor  #: (channel, …) before preprocessing
    affine: Any  #: of the grid after preprocessing
    shape: tuple[int, ...]  #: spatial, after preprocessing

    @property
    def source_shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.source.shape[1:])


def answered(
    sidecar: Mapping[str, Any], out: Any, item: dict[str, Any], image_key: str, pred_key: str, post: Compose, given: Given
) -> Answer:
    """The network's output through the bundle's own postprocessing, and in the form of its task."""
    task = str(sidecar["task"])
    if task == "detection":
        found = _tensors_by_name(out)
        item = {**item, pred_key: found, **found}
        after = post(item) if post.transforms else item
        return _detection(_boxes_of({name: after.get(name, tensor) for name, tensor in found.items()}), sidecar, given)
    pred = _certain(_tensor_of(out, pred_key)[0])  # before a threshold or argmax makes "nothing" of what is no number
    if task == "segmentation" and _has(post, "Invert") and not _has(post, "Resize") and tuple(pred.shape[1:]) != given.shape:
        raise Refusal(
            f"the network gives {tuple(pred.shape[1:])} voxels for an image of {given.shape}: its Invertd would put them elsewhere"
        )
    if not isinstance(item[image_key], MetaTensor):
        post_item = {**item, pred_key: pred}
    else:
        post_item = {**item, pred_key: MetaTensor(pred, affine=item[image_key].affine)}
    after = post(post_item) if post.transforms else post_item
    said = after.get(pred_key) if isinstance(after, dict) else None
    if said is None:
        raise Refusal(f"its postprocessing leaves no {pred_key}")
    tensor = torch.as_tensor(np.asarray(said) if not isinstance(said, torch.Tensor) else said)
    tensor = _certain(tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor).cpu()  # its transforms ran where the network is
    match task:
        case "segmentation":
            if tensor.shape[0] == 1 < len(pred) and _how(len(pred), sidecar, post) == "sigmoid" and not sidecar.get("labels_told", True):
                raise Refusal(
                    f"its postprocessing makes one label map of {len(pred)} channels that overlap, and only its author knows which number"
                    " is what; say it in the mapping file: labels: {1: edema, 2: tumor}"
                )
            return _segmentation(tensor, sidecar, post, given)
        case "classification":
            return _classification(tensor, sidecar, post)
        case "regression":
            return {"values": _numbers(tensor)}, {}
    raise Refusal(f"the task {task} is not known")


# --- segmentation -----------------------------------------------------------------------------------------------------------
def _segmentation(pred: torch.Tensor, sidecar: Mapping[str, Any], post: Compose, given: Given) -> Answer:
    """A label map where labels exclude each other, else one mask a channel; both (frames, rows, columns)."""
    dims = len(given.shape)
    if pred.ndim == dims:
        pred = pred[None]
    if pred.ndim != dims + 1:
        raise Refusal(f"its output has the shape {tuple(pred.shape)}: no mask of a {dims}-dimensional image")
    axes = str(sidecar.get("axes", "monai"))
    decided = _has(post, "AsDiscrete") or not pred.is_floating_point()
    if not decided:
        pred = _probabilities(pred, sidecar, post)
    pred = _on_source(pred, post, given, nearest=decided)
    if pred.shape[0] == 1 or (not decided and _how(pred.shape[0], sidecar, post) == "softmax"):
        labels = pred[0].round() if decided else _likeliest(pred, sidecar) if pred.shape[0] > 1 else pred[0] >= _thresholds(1, sidecar)[0]
        return {"kind": "labels"}, {"labels": _frames(labels[None].numpy(), axes, np.uint16)[0]}
    masks = pred > 0.5 if decided else pred >= _thresholds(len(pred), sidecar).reshape(-1, *[1] * dims)
    return {"kind": "masks"}, {"masks": _frames(masks.numpy(), axes, np.uint8)}


def _on_source(pred: torch.Tensor, post: Compose, given: Given, *, nearest: bool) -> torch.Tensor:
    """On the source's grid: there already after Invertd, else brought there by the affine."""
    here = tuple(int(n) for n in pred.shape[1:])
    if _has(post, "Invert"):
        if here != given.source_shape:
            raise Refusal(f"after its Invertd the mask has {here} voxels, the images have {given.source_shape}")
        return pred
    affine = torch.as_tensor(np.asarray(given.affine), dtype=torch.float64)
    source = torch.as_tensor(np.asarray(given.source.affine), dtype=torch.float64)
    if here == given.source_shape and torch.allclose(affine, source, atol=1e-4):
        return pred
    if here != given.shape:  # a network of another resolution: it saw the same field
        affine = _square(affine) @ _square(torch.as_tensor(np.asarray(scale_affine(given.shape, here))))
    mover = SpatialResample(mode="nearest" if nearest else "bilinear", padding_mode="zeros", dtype=torch.float32)
    moved = mover(MetaTensor(pred.float(), affine=affine), dst_affine=source, spatial_size=given.source_shape)
    return torch.as_tensor(moved).as_tensor()


def _square(affine: torch.Tensor) -> torch.Tensor:
    """4x4, whatever the number of dimensions."""
    out = torch.eye(4, dtype=torch.float64)
    n = affine.shape[0] - 1
    out[:n, :n], out[:n, 3] = affine[:n, :n].double(), affine[:n, n].double()
    return out


def _frames(array: NDArray[Any], axes: str, kind: type) -> NDArray[Any]:
    """(channel, frames, rows, columns) from (channel, …) in the network's order of axes; a flat image becomes one frame."""
    if axes != "torch":
        array = array.transpose(0, *range(array.ndim - 1, 0, -1))
    return np.ascontiguousarray(array[:, None] if array.ndim == 3 else array, dtype=kind)


# --- classification, regression --------------------------------------------------------------------------------------------
def _classification(pred: torch.Tensor, sidecar: Mapping[str, Any], post: Compose) -> Answer:
    if sum(n > 1 for n in pred.shape) > 1:
        raise Refusal(f"its output has the shape {tuple(pred.shape)}: not one number for each class")
    flat = pred.reshape(-1)
    if not flat.is_floating_point():
        raise Refusal("the network gives the number of a class and not how sure it is; export it without the argmax at its end")
    probabilities = _probabilities(flat, sidecar, post)
    return {"values": _numbers(probabilities), "activation": _how(len(flat), sidecar, post)}, {}


def _numbers(tensor: torch.Tensor) -> list[float]:
    values = [float(v) for v in tensor.reshape(-1)[:4096]]
    if not np.isfinite(values).all():
        raise Refusal("the network answered what is no number")
    return values


def _certain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, without a NaN in it; yes and no as 1 and 0."""
    if tensor.dtype is torch.bool:
        return tensor.to(torch.uint8)
    if tensor.is_floating_point() and tensor.isnan().any():
        raise Refusal("the network answered what is no number")
    return tensor


def _how(channels: int, sidecar: Mapping[str, Any], post: Compose) -> str:
    """ "softmax" where classes exclude each other, "sigmoid" where each stands for itself. The bundle's own postprocessing says it first, then the network."""
    for transform in post.transforms:
        if "Activations" in type(transform).__name__:
            for name in ("softmax", "sigmoid"):
                if any(np.ravel([getattr(transform, name, False)])):
                    return name
    return str(sidecar.get("activation") or sidecar.get("ends_with") or ("sigmoid" if channels == 1 else "softmax"))


def _probabilities(pred: torch.Tensor, sidecar: Mapping[str, Any], post: Compose) -> torch.Tensor:
    """0 to 1: as the bundle's own postprocessing left them, else activated here."""
    pred = pred.float()
    own, asked = sidecar.get("ends_with"), sidecar.get("activation")
    if _has(post, "Activations") or asked == "none" or (own and asked in (None, own)):
        return pred
    how = _how(pred.shape[0], sidecar, post)
    if "activation" not in sidecar and pred.min() >= 0 and pred.max() <= 1:  # an activation of its own, that nobody can see?
        if how == "softmax" and torch.allclose(pred.sum(dim=0), torch.ones(()), atol=1e-4):
            return pred
        if how == "sigmoid" and pred.ndim > 1:  # a second one would mark the whole image
            raise Refusal(
                "the network gives values between 0 and 1; say in the mapping file whether they are probabilities"
                " (activation: none) or not (activation: sigmoid)"
            )
    return torch.softmax(pred, dim=0) if how == "softmax" else torch.sigmoid(pred)


def _likeliest(pred: torch.Tensor, sidecar: Mapping[str, Any]) -> torch.Tensor:
    """The label of the likeliest channel at each place."""
    return pred.argmax(0) + _first_label(len(pred), sidecar)


def _first_label(channels: int, sidecar: Mapping[str, Any]) -> int:
    """Of channel 0: 0, or the first that has a name where names count from 1 on and no channel is for the background."""
    values = [int(output["value"]) for output in sidecar.get("outputs", ())]
    if not values or max(values) < channels:
        return 0
    if max(values) - min(values) >= channels:
        raise Refusal(f"the network gives {channels} channels, and labels up to {max(values)} are named")
    return min(values)


def _thresholds(channels: int, sidecar: Mapping[str, Any]) -> torch.Tensor:
    """Of each channel: that of its label, else that of all."""
    first, own = _first_label(channels, sidecar), sidecar.get("thresholds", {})
    names = {int(output["value"]) - first: output["name"] for output in sidecar.get("outputs", ())}
    return torch.tensor([float(own.get(names.get(channel), sidecar.get("threshold", 0.5))) for channel in range(channels)])


# --- detection --------------------------------------------------------------------------------------------------------------
def _detection(found: Mapping[str, torch.Tensor], sidecar: Mapping[str, Any], given: Given) -> Answer:
    """Boxes on the source's grid, the surest first: (column, row, frame) of two corners, 0 at the first pixel's outer edge."""
    dims = len(given.shape)
    boxes, scores, labels = (np.asarray(found[name].detach().cpu(), np.float64) for name in ("box", "score", "label"))
    if boxes.size == 0:
        return {"scores": [], "labels": []}, {"boxes": np.zeros((0, 6), np.float32)}
    boxes = boxes.reshape(-1, boxes.shape[-1])
    if boxes.shape[1] != 2 * dims or len(scores) != len(boxes) or len(labels) != len(boxes):
        raise Refusal(f"its boxes have the shape {boxes.shape}, with {len(scores)} scores: not {2 * dims} numbers for a box and a score")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise Refusal("the network answered boxes that are no numbers")
    order = np.argsort(-scores, kind="stable")[:MOST_BOXES]
    corners = boxes[order].reshape(-1, 2, dims)
    torch_axes = sidecar.get("axes") == "torch"
    if sidecar.get("boxes") == "relative":
        size = np.asarray(given.shape[::-1] if torch_axes else given.shape, np.float64)
        corners = corners * size
    if torch_axes:
        corners = corners[..., ::-1]  # x is the last axis
    there = (
        np.linalg.inv(_square(torch.as_tensor(np.asarray(given.source.affine))).numpy())
        @ _square(torch.as_tensor(np.asarray(given.affine))).numpy()
    )
    points = np.zeros((*corners.shape[:2], 4))
    points[..., :dims], points[..., 3] = corners - 0.5, 1.0
    moved = (points @ np.asarray(there).T)[..., :dims] + 0.5
    if torch_axes:
        moved = moved[..., ::-1]
    out = np.zeros((len(order), 2, 3))
    out[:, 1, 2] = 1.0
    out[..., :dims] = np.sort(moved, axis=1)
    return (
        {"scores": [float(v) for v in scores[order]], "labels": [int(v) for v in labels[order]]},
        {"boxes": out.reshape(-1, 6).astype(np.float32)},
    )


def _tensors_by_name(out: Any) -> dict[str, torch.Tensor]:
    """What a detector gives: a dict (MONAI, ONNX), a list of one dict (torchvision), or tensors told apart by their shape."""
    while isinstance(out, Sequence) and len(out) == 1:
        out = out[0]
    if isinstance(out, Sequence):
        inner = next((one for one in out if isinstance(one, Mapping | list) and one), None)
        if inner is not None:
            return _tensors_by_name(inner)
        out = {_kind_of(one): one for one in out if isinstance(one, torch.Tensor)}
    if isinstance(out, torch.Tensor):
        rows = out.reshape(-1, out.shape[-1])
        dims = 2 if rows.shape[1] < 7 else 3
        if rows.shape[1] not in (2 * dims + 1, 2 * dims + 2):  # box, score[, label] in a row
            raise Refusal("its output holds no boxes")
        label = rows[:, 2 * dims + 1] if rows.shape[1] > 2 * dims + 1 else torch.zeros(len(rows))
        return {"box": rows[:, : 2 * dims], "score": rows[:, 2 * dims], "label": label.round().long()}
    if not isinstance(out, Mapping):
        raise Refusal("its output holds no boxes")
    return {str(name): value for name, value in out.items() if isinstance(value, torch.Tensor)}


def _boxes_of(named: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """`box`, `score` and `label`, by the names that detectors give them."""
    found: dict[str, torch.Tensor] = {}
    for name, value in named.items():
        kind = next((kind for word, kind in KINDS if word in name.lower()), "")
        if kind:
            tensor = torch.as_tensor(np.asarray(value) if not isinstance(value, torch.Tensor) else value)
            found[kind] = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    if "box" not in found:
        raise Refusal("its output holds no boxes")
    box = found["box"].reshape(-1, found["box"].shape[-1]) if found["box"].numel() else found["box"].reshape(0, 4)
    count = len(box)
    score, label = found.get("score", torch.ones(count)), found.get("label", torch.zeros(count, dtype=torch.long))
    return {"box": box, "score": score.reshape(-1), "label": label.reshape(-1)}


def _kind_of(tensor: torch.Tensor) -> str:
    if tensor.ndim > 1 and tensor.shape[-1] in (4, 6):
        return "box"
    return "score" if tensor.is_floating_point() else "label"


# --- outputs ----------------------------------------------------------------------------------------------------------------
def _tensor_of(out: Any, key: str = "pred") -> torch.Tensor:
    """The one tensor that counts: the first of several (deep supervision gives coarser ones after it); of a dict the one that is called so."""
    if isinstance(out, Mapping):
        known = next((name for name in (key, *NAMES) if name in out), next(iter(out), None) if len(out) < 2 else None)
        if known is None and out:
            names = ", ".join(map(str, list(out)[:8]))
            raise Refusal(
                f"the network gives {len(out)} outputs at once ({names}); say in the mapping file which one is meant (pred_key: …)"
            )
        out = out.get(known)
    while isinstance(out, Sequence) and not isinstance(out, str) and len(out):
        out = out[0]
    if not isinstance(out, torch.Tensor) or out.ndim < 1:
        raise Refusal("the network gives no tensor")
    return out.as_tensor() if isinstance(out, MetaTensor) else out


def _has(post: Compose, word: str) -> bool:
    return any(type(transform).__name__.startswith(word) for transform in post.transforms)

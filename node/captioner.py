"""A sentence about a picture by a captioning network (BLIP or a relative), where somebody has put its weights beside a model.

The folder is one that `transformers` saves: config, processor, tokenizer and safetensors weights. It is read as data: no code in it is run,
nothing is fetched. `transformers` is an optional library (requirements-captioner.txt).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.errors import BundleInvalid

FOLDER = "captioner"  #: within a bundle
MOST_WORDS = 40
MOST_LETTERS = 240


class Captioner:
    """The network and what prepares a picture for it, in memory."""

    def __init__(self, folder: Path) -> None:
        """Raises BundleInvalid when the library is missing or the folder does not hold a captioning network."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            import transformers
        except ImportError:
            raise BundleInvalid("a captioner needs the library transformers: pip install -r requirements-captioner.txt") from None
        library: Any = transformers
        try:
            options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            self._processor: Any = library.AutoProcessor.from_pretrained(folder, **options)
            self._network: Any = library.AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True, **options).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as why:
            raise BundleInvalid(
                f"the folder {FOLDER} holds no captioning network: {type(why).__name__}", bundle=folder.parent.name
            ) from None

    def says(self, grey: NDArray[np.float32]) -> str:
        """A sentence about a picture (rows, columns), 0 to 1: plain letters, at most MOST_LETTERS; the same picture, the same words."""
        import torch
        from PIL import Image

        shown = Image.fromarray(np.repeat((np.clip(grey, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2))
        given = self._processor(images=shown, return_tensors="pt")
        with torch.inference_mode():
            written = self._network.generate(**given, max_new_tokens=MOST_WORDS, do_sample=False, num_beams=1)
        [text] = self._processor.batch_decode(written, skip_special_tokens=True)
        return re.sub(r"\s+", " ", re.sub(r"[^ -~]", " ", text)).strip()[:MOST_LETTERS]


def found_in(bundle: Path, sums: Any) -> Captioner | None:
    """The captioner of a bundle folder; None where there is none, or where the bundle's sums don't list all of it.

    Only listed files were checked, so a captioner that is not listed is not read.
    """
    folder = bundle / FOLDER
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    if not files or any(path.relative_to(bundle).as_posix() not in sums for path in files):
        return None
    return Captioner(folder)

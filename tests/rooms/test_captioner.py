"""A captioning network beside a model: a tiny one, made here, of random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from node import captioner
from node.bundle import Bundle, write_sums
from node.errors import BundleInvalid
from tests.rooms.workbench import bundle

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "chest", "film", "clear", "lungs")


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP of a few thousand weights that says "lungs" and nothing else."""
    transformers = pytest.importorskip("transformers")
    import torch

    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    small = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64}
    text |= {"bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    torch.manual_seed(0)
    network = transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 16})
    )
    with torch.no_grad():
        network.text_decoder.cls.predictions.bias[WORDS.index("lungs")] = 50.0
    network.save_pretrained(folder)
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"), bos_token="[DEC]")
    transformers.BlipProcessor(transformers.BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def beside(blip: Path, folder: Path) -> Path:
    path = bundle(folder, "xray_anomaly").path
    (path / captioner.FOLDER).mkdir()
    for file in blip.iterdir():
        (path / captioner.FOLDER / file.name).write_bytes(file.read_bytes())
    return path


def test_it_says_what_the_network_says_the_same_each_time(blip: Path) -> None:
    network = captioner.Captioner(blip)
    film = np.random.default_rng(0).random((50, 60)).astype(np.float32)

    words = network.says(film)

    assert set(words.split()) == {"lungs"}
    assert len(words) <= captioner.MOST_LETTERS
    assert network.says(film) == words


def test_a_captioner_that_the_sums_list_is_read_with_its_bundle(blip: Path, tmp_path: Path) -> None:
    path = beside(blip, tmp_path)
    write_sums(path)

    found = captioner.found_in(path, Bundle.open(path).sums)

    assert found is not None
    assert "lungs" in found.says(np.zeros((40, 40), np.float32))


def test_a_captioner_nobody_checked_is_not_read(blip: Path, tmp_path: Path) -> None:
    path = beside(blip, tmp_path)

    assert captioner.found_in(path, Bundle.open(path).sums) is None


def test_no_captioner_is_the_usual_case(tmp_path: Path) -> None:
    opened = bundle(tmp_path, "xray_anomaly")

    assert captioner.found_in(opened.path, opened.sums) is None


def test_a_folder_that_holds_no_captioner_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(BundleInvalid, match="no captioning network"):
        captioner.Captioner(tmp_path)

"""A bundle arrives, in whichever form: it becomes a MONAI bundle folder, in a place where nobody runs it yet."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from node.errors import BundleRefused
from node.guests import brainchop

METADATA = "configs/metadata.json"
CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
WEIGHTS = ("models/model.safetensors", "models/model.pt", "models/model.ts", "models/model.onnx")
KINDS = {
    ".safetensors": ".safetensors",
    ".pt": ".pt",
    ".pth": ".pt",
    ".ckpt": ".pt",
    ".ts": ".ts",
    ".onnx": ".onnx",
}  #: of weights: suffix → that of WEIGHTS
NETWORKS = {"network_def", "network", "net"}  #: where a configuration describes its network
LARGE = tuple(f"{word}.{suffix}" for word in ("large_files", "large-files", "large_file") for suffix in ("yml", "yaml"))
SMP_CONFIG = "config.json"  #: what `save_pretrained` of segmentation_models_pytorch writes beside the weights
FIT = "fit_input"  #: in a configuration that was made here: resize to what an ONNX file asks for
POINTER = b"version https://git-lfs"  #: what a clone without Git LFS has in place of a large file
SKIPPED = {"__pycache__", "__MACOSX", ".git", ".DS_Store", "node.json", "SHA256SUMS"}
MOST_FILES, MOST_BYTES = 2000, 8 << 30
MOST_NODES = 500_000  #: of a configuration in YAML


def unpack(path: Path, to: Path, mapping: Mapping[str, Any]) -> bool:
    """The bundle at `path` as a folder `to` in MONAI's layout; whether it came without a configuration of its own.

    Raises BundleRefused with what is wrong and what to do.
    """
    if not path.exists():
        raise BundleRefused(f"there is nothing at {path.name}")
    if path.is_dir():
        _folder(path, to, mapping)
    elif zipfile.is_zipfile(path) and not _is_scripted(path) and (path.suffix.lower() == ".zip" or _holds(path, "metadata.json")):
        with _Extracted(path, to.parent / ".unzipped") as folder:
            _folder(folder, to, mapping)
    elif zipfile.is_zipfile(path) and _is_scripted(path):
        _torchscript(path, to, mapping)
    elif path.suffix.lower() == ".onnx":
        _bare(path, to, "model.onnx", mapping, beside=_beside(path))
    elif zipfile.is_zipfile(path) and _is_exported(path):
        raise BundleRefused(f"{path.name} is a program of torch.export, which is not read here; save it as TorchScript or ONNX")
    elif path.suffix.lower() in (".pt", ".pth", ".ckpt", ".safetensors", ".bin"):
        _bare(path, to, "model.safetensors" if _is_safetensors(path) else "model.pt", mapping)
    else:
        raise BundleRefused(f"{path.name} is no bundle folder, zip of one, TorchScript, ONNX or state dict")
    bare = (to / CONFIGS[0]).exists() and FIT in _json(to / CONFIGS[0])
    _with_mapping(to, mapping)
    if not (mapping.get("version") or read_metadata(to).get("version")):
        raise BundleRefused("metadata.json has no version")
    if not any((to / name).exists() for name in CONFIGS):
        raise BundleRefused(f"it has no {' or '.join(CONFIGS)}")
    return bare


# --- the forms ----------------------------------------------------------------------------------------------------------------
def _folder(path: Path, to: Path, mapping: Mapping[str, Any]) -> None:
    inside = [child for child in path.iterdir() if child.name not in SKIPPED] if not (path / METADATA).exists() else []
    if (path / METADATA).exists():
        _copy(path, to)
    elif brainchop.is_meshnet(path):
        brainchop.write_bundle(path, to)
    elif (path / SMP_CONFIG).is_file():
        _smp(path, to, mapping)
    elif len(inside) == 1 and inside[0].is_dir():
        _folder(inside[0], to, mapping)
    else:
        raise BundleRefused(f"the folder has no {METADATA}, and is no model of segmentation_models_pytorch or brainchop either")


def _copy(path: Path, to: Path) -> None:
    """Every regular file; a link could lead anywhere, so there may be none."""
    count = size = 0
    for file in sorted(_files(path)):
        count, size = count + 1, size + file.lstat().st_size
        if not str(file.relative_to(path)).isprintable():
            raise BundleRefused(f"the name of {_shown(file.relative_to(path))} holds what can't be printed; rename it, and add it again")
        if not stat.S_ISREG(file.lstat().st_mode):
            raise BundleRefused(f"{file.relative_to(path)} is a link or no file; a bundle holds files only")
        if count > MOST_FILES or size > MOST_BYTES:
            raise BundleRefused(f"it has more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB")
        target = to / file.relative_to(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _files(path: Path) -> Iterator[Path]:
    for child in path.iterdir():
        if child.name in SKIPPED:
            continue
        if child.is_dir() and not child.is_symlink():
            yield from _files(child)
        else:
            yield child


class _Extracted:
    """A zip unpacked beside the place it goes to, and removed again."""

    def __init__(self, path: Path, to: Path) -> None:
        self._path, self._to = path, to

    def __enter__(self) -> Path:
        with zipfile.ZipFile(self._path) as archive:
            members = archive.infolist()
            if len(members) > MOST_FILES or sum(member.file_size for member in members) > MOST_BYTES:
                raise BundleRefused(f"the zip holds more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB")
            for member in members:
                inside = PurePosixPath(member.filename)
                if member.flag_bits & 1:
                    raise BundleRefused("the zip asks for a password; unpack it, and add the folder")
                if inside.is_absolute() or ".." in inside.parts or stat.S_ISLNK(member.external_attr >> 16):
                    raise BundleRefused("the zip holds a path outside itself, or a link")
            self._to.mkdir()
            archive.extractall(self._to)
        return self._to

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._to, ignore_errors=True)


def _torchscript(path: Path, to: Path, mapping: Mapping[str, Any]) -> None:
    """TorchScript, with metadata and inference configuration inside where MONAI's `ckpt_export` put them, or bare."""
    with zipfile.ZipFile(path) as archive:
        extras = {PurePosixPath(name).name: name for name in archive.namelist() if PurePosixPath(name).parent.name == "extra"}
        told = {name: archive.read(extras[name]) for name in ("metadata.json", "inference.json") if name in extras}
    _bare(path, to, "model.ts", mapping, {f"configs/{name}": data for name, data in told.items()})


def _bare(
    path: Path,
    to: Path,
    weights: str,
    mapping: Mapping[str, Any],
    configs: Mapping[str, bytes] | None = None,
    beside: Iterable[Path] = (),
) -> None:
    """Weights by themselves, with the files beside them that they name."""
    (to / "models").mkdir(parents=True)
    (to / "configs").mkdir()
    shutil.copyfile(path, to / "models" / weights)
    for file in beside:
        shutil.copyfile(file, to / "models" / file.name)
    for name, data in (configs or {}).items():
        (to / name).write_bytes(data)
    if not (to / METADATA).exists():
        told = {"version": str(mapping.get("version", "1.0.0")), "name": str(mapping.get("title") or path.stem)}
        network = mapping.get("network")
        taken = {"num_channels": network["in_channels"]} if isinstance(network, Mapping) and "in_channels" in network else {}
        _write(to / METADATA, {**told, "network_data_format": {"inputs": {"image": taken}}} if taken else told)
    if not (to / CONFIGS[0]).exists():
        if weights in ("model.pt", "model.safetensors") and "network" not in mapping:
            raise BundleRefused(
                f"{path.name} holds weights and not the network; name it in the mapping file, for example"
                " network: {_target_: segmentation_models_pytorch.Unet, encoder_name: resnet34, in_channels: 1, classes: 1}"
            )
        _write(to / CONFIGS[0], _plain_inference(mapping))


def _beside(path: Path) -> Iterator[Path]:
    """The files beside an ONNX file in which it says that weights lie: `location` of a tensor's external data, as protobuf writes it."""
    data = path.read_bytes()
    for file in path.parent.iterdir():
        name = os.fsencode(file.name)
        if len(name) < 128 and b"\n\x08location\x12" + bytes([len(name)]) + name in data and stat.S_ISREG(file.lstat().st_mode):
            yield file


def _smp(path: Path, to: Path, mapping: Mapping[str, Any]) -> None:
    """What `save_pretrained` of segmentation_models_pytorch wrote: `config.json` names the class and its arguments."""
    config = _json(path / SMP_CONFIG)
    kind = str(config.pop("_model_class", ""))
    weights = next((path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()), None)
    if not re.fullmatch(r"[A-Za-z]\w*", kind) or weights is None:
        raise BundleRefused(f"{SMP_CONFIG} names no _model_class of segmentation_models_pytorch, or its weights are not beside it")
    arguments = {name: value for name, value in config.items() if not name.startswith("_")}
    network = {"_target_": f"segmentation_models_pytorch.{kind}", **arguments, "encoder_weights": None}
    _bare(weights, to, "model.safetensors" if _is_safetensors(weights) else "model.pt", {"title": path.name, **mapping, "network": network})


# --- what the mapping file adds -------------------------------------------------------------------------------------------------
def _plain_inference(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing for a network that came without: the mapping file's, else values scaled to 0…1 and, where its input has one size, resized."""
    shape = [int(n) for n in mapping.get("input_shape") or ()]
    resize = [{"_target_": "Resized", "keys": "image", "spatial_size": shape}] if shape else []
    network = {"network_def": mapping["network"]} if "network" in mapping else {}
    return network | {
        FIT: True,
        "preprocessing": {"_target_": "Compose", "transforms": [*resize, {"_target_": "ScaleIntensityd", "keys": "image"}]},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": []},
    }


def _with_mapping(to: Path, mapping: Mapping[str, Any]) -> None:
    """Network, preprocessing, inferer and postprocessing of the mapping file take the place of the bundle's."""
    chosen = {key: mapping[key] for key in ("preprocessing", "inferer", "postprocessing") if key in mapping}
    chosen |= {"network_def": mapping["network"]} if "network" in mapping else {}
    if not chosen:
        return
    file = next((to / name for name in CONFIGS if (to / name).exists()), to / CONFIGS[0])
    config = (_json(file) if file.suffix == ".json" else _yaml(file)) if file.exists() else {}
    for key, value in chosen.items():
        config[key] = {"_target_": "Compose", "transforms": value} if isinstance(value, list) else value
    file.unlink(missing_ok=True)
    _write(to / CONFIGS[0], config)


# --- is it whole? ---------------------------------------------------------------------------------------------------------------
def with_weights(to: Path) -> None:
    """The weights are there, are those that `large_files.yml` names, and have the name by which a node knows them.

    Asked after what the bundle takes and gives is known: nobody should fetch gigabytes for a bundle that no node can use.
    """
    if not NETWORKS & set(config_of(to)) and not _holds_its_network(to):
        raise BundleRefused("its inference configuration has no network_def, so nobody knows which network the weights are of")
    large = _large_files(to)
    for one in large:
        path = to / one["path"]
        if not path.resolve().is_relative_to(to.resolve()):
            raise BundleRefused("large_files.yml names a path outside the bundle")
        if path.exists() and one["md5"] and _md5(path) != one["md5"]:
            raise BundleRefused(
                f"{one['path']} is not the file that large_files.yml names (md5 {one['md5']}); fetch it again: {one['url']}"
            )
    if not any((to / name).exists() for name in WEIGHTS):
        _rename(to, large)
    if pointer := next((name for name in WEIGHTS if (to / name).exists() and _is_pointer(to / name)), ""):
        raise BundleRefused(f"{pointer} is a pointer of Git LFS and not the weights; fetch them with `git lfs pull`, and add it again")


def _rename(to: Path, large: list[dict[str, str]]) -> None:
    """The weights lie in `models/` under another name, and get the usual one."""
    config = config_of(to)
    there = [file for file in sorted((to / "models").rglob("*")) if file.is_file() and file.suffix.lower() in KINDS]
    missing = [one for one in large if one["path"].startswith("models/") and not (to / one["path"]).exists()]
    loaded, text = _loaded(config), json.dumps(config, default=str)
    wanted = [file for file in there if file.name in loaded]
    if not wanted and not any(one["path"] in WEIGHTS for one in missing):
        wanted = [file for file in there if file.name not in text]  # what it names in another place is something else
    if wanted and len({file.stem for file in wanted}) == 1:
        best = min(wanted, key=lambda file: list(KINDS).index(file.suffix.lower()))
        best.rename(to / f"models/model{KINDS[best.suffix.lower()]}")
    elif wanted:
        names = ", ".join(file.relative_to(to).as_posix() for file in wanted[:6])
        raise BundleRefused(f"nobody knows which of {names} are its weights: call them models/model.pt, and add it again")
    elif missing:
        either = " or ".join(_where(one) for one in missing if one["path"] in WEIGHTS)  # one is enough
        rest = [_where(one) for one in missing if one["path"] not in WEIGHTS]
        raise BundleRefused(f"its weights are not in it. Fetch {'; '.join(filter(None, [either, *rest]))}, and add it again")
    else:
        raise BundleRefused(f"it has none of {', '.join(WEIGHTS)}")


def _holds_its_network(to: Path) -> bool:
    """Whether the weights, here or where they are fetched from, are a TorchScript or ONNX file."""
    here = [to / name for name in WEIGHTS if (to / name).exists()]
    elsewhere = [Path(one["path"]) for one in _large_files(to)]
    return any(file.suffix in (".ts", ".onnx") for file in here + elsewhere) or any(
        zipfile.is_zipfile(file) and _is_scripted(file) for file in here
    )


def _where(one: Mapping[str, str]) -> str:
    return f"{one['url']} to {one['path']}{' (md5 ' + one['md5'] + ')' if one['md5'] else ''}"


def _loaded(config: Mapping[str, Any]) -> str:
    """What its `CheckpointLoader` says of the file it loads, with the keys of the configuration that this refers to."""
    said = " ".join(str(one.get("load_path", "")) for one in _components(config) if str(one["_target_"]).endswith("CheckpointLoader"))
    for _ in range(4):
        more = {str(config[key]) for key in re.findall(r"@(\w+)", said) if isinstance(config.get(key), str)}
        if all(one in said for one in more):
            break
        said = " ".join([said, *sorted(more)])
    return said


def slices_itself(folder: Path) -> bool:
    """Whether its inferer takes a volume and shows a flat network one slice after the other."""
    inferer = config_of(folder).get("inferer")
    return isinstance(inferer, Mapping) and str(inferer.get("_target_", "")).rpartition(".")[2] == "SliceInferer"


def _components(config: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of the configuration that names what it is."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from _components(value)
    elif isinstance(config, list):
        for value in config:
            yield from _components(value)


def config_of(folder: Path) -> dict[str, Any]:
    """The inference configuration as it is written: nothing in it is followed or evaluated. Raises BundleRefused."""
    file = next(folder / name for name in CONFIGS if (folder / name).exists())
    return _json(file) if file.suffix == ".json" else _yaml(file)


def read_metadata(folder: Path) -> dict[str, Any]:
    """`configs/metadata.json`. Raises BundleRefused."""
    return _json(folder / METADATA)


def _large_files(to: Path) -> list[dict[str, str]]:
    """Path, URL and MD5 of each file that lies elsewhere."""
    file = next((to / name for name in LARGE if (to / name).exists()), None)
    if file is None:
        return []
    try:
        listed = yaml.safe_load(file.read_text())["large_files"]
        return [
            {
                "path": str(one["path"]),
                "url": str(one.get("url", "(no URL)")),
                "md5": str(one.get("hash_val") or "") if str(one.get("hash_type", "md5")).lower() == "md5" else "",
            }
            for one in listed
        ]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise BundleRefused(f"{file.name} can't be read") from None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


# --- small things -----------------------------------------------------------------------------------------------------------
def _is_scripted(path: Path) -> bool:
    """A TorchScript archive; a bundle's zip may have a folder `code` as well."""
    return _holds(path, "constants.pkl")


def _is_exported(path: Path) -> bool:
    """What torch.export saves, now and before torch 2.7."""
    return _holds(path, "archive_format") or _holds(path, "serialized_exported_program.json")


def _shown(path: Path) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(path))


def _holds(path: Path, name: str) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(member).name == name for member in archive.namelist())


def _is_safetensors(path: Path) -> bool:
    """Eight bytes of length, then JSON: many a `.pth` is one in truth."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleRefused(f"it has no {path.name}") from None
    except json.JSONDecodeError as why:
        raise BundleRefused(f"{path.name} is not JSON: line {why.lineno}: {why.msg}") from None
    except (ValueError, OSError):
        raise BundleRefused(f"{path.name} is not JSON") from None
    if not isinstance(read, dict):
        raise BundleRefused(f"{path.name} must hold keys and values")
    return read


def _yaml(path: Path) -> dict[str, Any]:
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError) as why:
        raise BundleRefused(f"{path.name} is not YAML: {getattr(why, 'problem', None) or type(why).__name__}") from None
    if not isinstance(read, dict):
        raise BundleRefused(f"{path.name} must hold keys and values")
    if not _is_finite(read):
        raise BundleRefused(f"{path.name} grows without end when its aliases (*…) are followed; write it without")
    return read


def _is_finite(content: Any) -> bool:
    """Whether what it refers to, again and again, ends somewhere: a few lines of YAML can stand for more than a memory holds."""
    left = [content]
    for _ in range(MOST_NODES):
        if not left:
            return True
        one = left.pop()
        left += one.values() if isinstance(one, Mapping) else one if isinstance(one, list) else ()
    return False


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")

"""The manifest of a checkpoint: sha256 of every stored tensor, to tell later which one was altered.

Knows nothing of models: tensors are bytes with a name, a shape and a dtype.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import CheckpointError
from .modelfile import read_json
from .shards import Shards

MANIFEST = "lacuna-manifest.json"


@dataclass(frozen=True, slots=True)
class Altered:
    """A tensor that is not what it should be.

    reason: "manifest" (the file changed), "loaded" (engine and transformers hold different values), "missing" (one of
    the two has none).
    """

    tensor: str
    file: str
    reason: str
    detail: str


def manifest_path(source: Path) -> Path:
    return source / MANIFEST if source.is_dir() else source.with_name(f"{source.stem}.{MANIFEST}")


def write_manifest(source: Path) -> Path:
    """sha256 of every stored tensor's bytes, with shape and dtype. Raises: ModelNotFoundError, CheckpointError."""
    path = manifest_path(source)
    path.write_text(json.dumps({"version": 1, "tensors": _digests(source)}, indent=1), encoding="utf-8")
    return path


def check_manifest(source: Path) -> list[Altered] | None:
    """What differs from the manifest; None where there is none. Raises: CheckpointError for a broken manifest."""
    path = manifest_path(source)
    if not path.exists():
        return None
    try:
        tensors: dict[str, str] = read_json(path)["tensors"]
        wanted = dict(tensors.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a manifest ({error!r}); write it again with lacuna verify --write-manifest"
        ) from None
    found, files = _digests(source), files_by_name(source)
    altered: list[Altered] = []
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) == found.get(name):
            continue
        if name not in found:
            detail = f"it is in {path.name} but not in the files"
        elif name not in wanted:
            detail = f"it is not in {path.name}"
        else:
            detail = f"its bytes are not those that {path.name} was written for; copy the file again"
        altered.append(Altered(name, files.get(name, str(source)), "manifest", detail))
    return altered


def _digests(source: Path) -> dict[str, str]:
    shards = Shards(source)
    digests: dict[str, str] = {}
    for file in shards.files:
        with shards.opened(file):
            for name in shards.names(file):
                tensor = shards.read(name)
                digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data)
                digests[name] = digest.hexdigest()
    return digests


def files_by_name(source: Path) -> dict[str, str]:
    return {name: str(stored.file) for name, stored in Shards(source).stored.items()}

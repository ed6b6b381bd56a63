"""Where adapters lie on disk and which model they belong to, without loading a tensor. Imports no torch.

An adapter is one small safetensors file in the user's state folder, one per workspace, whose header names the model
that it was trained on by a hash. What is in it is adapter.py's business.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from .errors import CheckpointError, LacunaError, ModelError
from .modelfile import EMBEDDED, PACKED_MANIFEST, loads, read_metadata

logger = logging.getLogger(__name__)

KEY, VERSION = "lacuna.adapter", "1"
HEADER_KEY = "lacuna.adapter.header"
SAMPLE_BYTES = 1 << 20
"""How much of a large model's files the hash reads, from each end of each."""


@dataclass(frozen=True, slots=True)
class Header:
    """base: `fingerprint` of the model. about: what a person wants to know, as text."""

    base: str
    scale: float = 1.0
    about: dict[str, str] = field(default_factory=dict[str, str])


def read_header(path: Path) -> Header:
    """Raises: CheckpointError for a file that is no adapter, ModelNotFoundError."""
    metadata = read_metadata(path)
    if metadata.get(KEY) != VERSION:
        raise CheckpointError(f"{path} is not an adapter of format {VERSION}; run `lacuna adapt` again")
    try:
        header = cast(dict[str, Any], loads(metadata[HEADER_KEY]))
        return Header(str(header["base"]), float(header["scale"]), dict[str, str](header["about"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); run `lacuna adapt` again, or remove it") from None


def state_folder() -> Path:
    """Where adapters are kept. It need not exist."""
    # only here: training imports the engine on machines that have nothing but torch
    from platformdirs import user_state_path

    return user_state_path("lacuna", appauthor=False) / "adapters"


def adapter_file(workspace: Path | str) -> Path:
    """The file of a workspace's adapter; it need not exist. workspace: any spelling of the folder's path."""
    whole = os.path.normcase(Path(workspace).expanduser().resolve())
    return state_folder() / f"{hashlib.sha256(whole.encode('utf-8', 'surrogateescape')).hexdigest()[:20]}.safetensors"


def fingerprint(source: Path) -> str:
    """Which weights these are, in well under a second: sha256 of a model file, or of a packed folder's manifest, which
    has the checksum of every tensor; of other folders, of sizes and both ends of every file. Raises: ModelError.
    """
    manifest = source / PACKED_MANIFEST
    files = [source] if source.is_file() else sorted(source.glob("*.safetensors"))
    files = [manifest] if manifest.exists() else files
    found = hashlib.sha256()
    try:
        for file in files:
            size = file.stat().st_size
            found.update(f"{size} ".encode())
            with file.open("rb") as stream:
                if source.is_file() or file is manifest:
                    found.update(hashlib.file_digest(stream, "sha256").digest())
                    continue
                found.update(stream.read(SAMPLE_BYTES))
                stream.seek(max(0, size - SAMPLE_BYTES))
                found.update(stream.read(SAMPLE_BYTES))
    except OSError as error:
        raise ModelError(f"{source} cannot be read ({error.strerror or error}); check its permissions") from error
    return found.hexdigest()


def find_adapter(workspaces: Sequence[Path | str], source: Path) -> Path | None:
    """The adapter of the first workspace that has one, or of the nearest folder above it; None where there is none.

    One that cannot be read, or was made for other weights, is a warning in the log, and None: the model at source
    serves as it is.
    """
    for workspace in workspaces:
        folder = Path(workspace).expanduser().resolve()
        for place in (folder, *folder.parents):
            path = adapter_file(place)
            try:
                if not path.exists():
                    continue
            except OSError as error:
                refuse(path, f"its folder cannot be read ({error.strerror})")
                return None
            try:
                belongs = read_header(path).base == fingerprint(source)
            except ModelError as error:
                refuse(path, str(error))
                return None
            if belongs:
                return path
            name = "the embedded model" if source == EMBEDDED else source.name
            refuse(path, f"it was made for other weights than those of {name}; run `lacuna adapt` again for {place}")
            return None
    return None


def refuse(path: Path, why: str) -> None:
    """Tell that an adapter is not used."""
    logger.warning("The adapter %s is not used: %s. The model serves without it.", path, why)


def forget_adapter(workspace: Path | str) -> Path | None:
    """Remove a workspace's adapter. Returns the file that was removed, or None. Raises: LacunaError."""
    path = adapter_file(workspace)
    try:
        path.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LacunaError(f"{path} cannot be removed ({error.strerror or error}); remove it by hand") from error
    return path

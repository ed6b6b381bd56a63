"""The tensors of a checkpoint folder by name, read one at a time from its safetensors files.

Headers are checked before anything is read, so a truncated file is found at once and the error can name the first
tensor that is cut off. Knows no model: what the names mean is formats.py's business.
Source: the safetensors format: eight bytes of little-endian header length, JSON with byte offsets, then the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CheckpointError, ModelNotFoundError, shown
from .modelfile import MAX_HEADER_BYTES, loads, opened, read_json

INDEX = "model.safetensors.index.json"
MAX_NAME_BYTES = 255
"""No file system knows longer names."""

REMAP_BYTES = 1 << 28
"""After so much was read of a file it is mapped anew."""

HASHED_BYTES = 1 << 24
"""Bytes hashed between two reports of progress."""

CHUNK_ELEMENTS = 1 << 20
"""Elements looked at together when a tensor is checked: the check of a 1.5 GB table must not cost another gigabyte."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies and what its header says of it. dtype: safetensors' name, such as "BF16"."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


class Shards:
    """All files of a checkpoint, with their headers read. Tensors are read on demand, file by file."""

    def __init__(self, source: Path, files: list[Path] | None = None) -> None:
        """source: the folder, or one file. files: which ones, instead of asking the folder's index.

        Raises: ModelNotFoundError, CheckpointError.
        """
        self.source = source
        self.files = files if files is not None else find_files(source)
        self.stored: dict[str, Stored] = {}
        for file in self.files:
            for name, stored in read_header(file).items():
                if name in self.stored:
                    raise CheckpointError(
                        f"tensor {name} is in {self.stored[name].file} and again in {file}; copy the model again"
                    )
                self.stored[name] = stored
        self._open_file: Path | None = None
        self._open_handle: Any = None
        self._num_mapped = 0

    @property
    def num_bytes(self) -> int:
        return sum(stored.num_bytes for stored in self.stored.values())

    def names(self, file: Path) -> list[str]:
        return sorted(name for name, stored in self.stored.items() if stored.file == file)

    def place(self, name: str) -> Path:
        """Where a tensor is, or where a missing one should be: the file that the index names, else the source."""
        if name in self.stored:
            return self.stored[name].file
        file_name = (read_index(self.source) or {}).get(name)
        return self.source if file_name is None else self.source / file_name

    def read(self, name: str) -> Tensor:
        """The tensor on the CPU. It may share the file's memory map: whoever keeps it clones it.

        Raises: CheckpointError naming tensor and file.
        """
        if name not in self.stored:
            raise CheckpointError(f"{self.place(name)}: tensor {name} is missing; copy the whole model again")
        file = self.stored[name].file
        try:
            if self._open_file == file:
                self._num_mapped += self.stored[name].num_bytes
                if self._num_mapped > REMAP_BYTES:
                    # what was read stays in memory as long as the map of the file does
                    self._open(file)
                    self._num_mapped = self.stored[name].num_bytes
                return cast(Tensor, self._open_handle.get_tensor(name))
            with cast(Any, safe_open(file, framework="pt")) as handle:
                return cast(Tensor, handle.get_tensor(name))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: tensor {name} cannot be read ({error}); copy the file again") from None

    @contextmanager
    def opened(self, file: Path) -> Generator[None]:
        """Keep one file open while its tensors are read."""
        try:
            self._open(file)
            yield
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is truncated or not a safetensors file ({error}); copy it again") from None
        finally:
            self._open_file = self._open_handle = None

    def _open(self, file: Path) -> None:
        self._open_handle = None
        self._open_file, self._open_handle, self._num_mapped = file, cast(Any, safe_open)(file, framework="pt"), 0

    def fingerprint(self, progress: Callable[[int, int, str], None] | None = None) -> str:
        """sha256 over the files' names and bytes, in order: which weights these are.

        progress: told (bytes hashed, bytes in all, what), for every byte of a full-size model is read.
        """
        digest, done_bytes = hashlib.sha256(), 0
        num_bytes = sum(file.stat().st_size for file in self.files)
        for file in self.files:
            of_file = hashlib.sha256()
            with file.open("rb") as stream:
                while piece := stream.read(HASHED_BYTES):
                    of_file.update(piece)
                    done_bytes += len(piece)
                    if progress is not None:
                        progress(done_bytes, num_bytes, f"checksum of {file.name}")
            digest.update(file.name.encode())
            digest.update(of_file.digest())
        return digest.hexdigest()


def is_file_name(name: str) -> bool:
    """Whether a name that a model gives can be that of a file in its folder, and can be shown."""
    return Path(name).name == name and name.isprintable() and len(name.encode()) <= MAX_NAME_BYTES


def find_files(source: Path) -> list[Path]:
    """The safetensors files of a folder, as its index names them. Raises: ModelNotFoundError, CheckpointError."""
    if source.is_file():
        return [source]
    index = read_index(source)
    if index is not None:
        names = sorted(set(index.values()))
        for name in names:
            if not is_file_name(name):
                raise CheckpointError(
                    f"{source / INDEX} names {shown(name)}, which is not a file of the folder; copy it again"
                )
            if not (source / name).exists():
                raise CheckpointError(
                    f"{source / name} is missing, though {INDEX} names it; copy the whole model again"
                )
        return [source / name for name in names]
    single = source / "model.safetensors"
    if not single.exists():
        raise ModelNotFoundError(f"{source} holds no model.safetensors; point to a folder that save_pretrained wrote")
    return [single]


def read_index(source: Path) -> dict[str, str] | None:
    """Stored name -> file name, as a folder's index says; None where it has none. Raises: CheckpointError."""
    index = source / INDEX
    if not index.exists():
        return None
    try:
        names = cast(dict[str, Any], dict(read_json(index)["weight_map"]))
        if not all(isinstance(name, str) for name in names.values()):
            raise TypeError("a file that is no name")
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{index} is not a valid index; copy it again") from None
    return names


def read_header(file: Path) -> dict[str, Stored]:
    """What a file says it holds, compared with its size. Raises: ModelNotFoundError, CheckpointError."""
    try:
        size = file.stat().st_size
        with opened(file) as stream:
            length = int.from_bytes(stream.read(8), "little")
            raw = stream.read(length) if length < MAX_HEADER_BYTES else b""
    except FileNotFoundError:
        raise ModelNotFoundError(f"{file} does not exist; copy the whole model again") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}); check its permissions") from None
    try:
        if len(raw) != length:
            raise ValueError("it ends inside its header")
        header = cast(dict[str, Any], loads(raw))
        stored: dict[str, Stored] = {}
        ends: list[tuple[int, str]] = []
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            stored[name] = Stored(file, tuple(entry["shape"]), str(entry["dtype"]), last - first)
            ends.append((8 + length + last, name))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is not a safetensors file, or is truncated ({error}); copy it again") from None
    cut = [name for end, name in sorted(ends) if end > size]
    if cut:
        raise CheckpointError(f"{file} is truncated: tensor {cut[0]} ends behind the end of the file; copy it again")
    return stored


def check_finite(tensor: Tensor, name: str, file: Path, dtype: torch.dtype | None = None) -> None:
    """dtype: what it will be rounded to. Raises: CheckpointError for NaN, infinity and what is infinite in that dtype,
    naming tensor and file.
    """
    if fault := fault_of_values(tensor, dtype):
        raise CheckpointError(f"{file}: tensor {name} {fault}")


def fault_of_values(tensor: Tensor, dtype: torch.dtype | None = None) -> str:
    """What is wrong with a tensor's values, and what to do; "" where they are all finite, also in dtype."""
    if not tensor.is_floating_point():
        return ""
    flat = tensor.reshape(-1)
    for first in range(0, flat.numel(), CHUNK_ELEMENTS):
        chunk = flat[first : first + CHUNK_ELEMENTS]
        # the ends tell of all between them, in one pass and without a copy; eight-bit floats know no order
        ends = torch.stack(torch.aminmax(chunk.float() if chunk.element_size() == 1 else chunk))
        if not bool(torch.isfinite(ends).all()):
            return "holds NaN or infinity; copy the file again"
        if dtype is not None and not bool(torch.isfinite(ends.to(dtype)).all()):
            return f"holds values that are infinite in {str(dtype).removeprefix('torch.')}; copy the file again"
    return ""

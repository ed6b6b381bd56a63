"""Where models lie on disk and what can be learned of them without loading a tensor. Imports no torch.

A model is either a folder as `save_pretrained` writes it, or one .safetensors file in our packed form, whose header
carries the config, the tokenizer and the calibration (metadata keys below).
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import CheckpointError, ModelNotFoundError, VocabularyError

EMBEDDED = Path(__file__).with_name("embedded.safetensors")
"""The checkpoint in the wheel."""

FORMAT_KEY, FORMAT_VERSION = "lacuna.format", "1"
CONFIG_KEY, TOKENIZER_KEY = "lacuna.config", "lacuna.tokenizer"
CALIBRATION_KEY, CARD_KEY = "lacuna.calibration", "lacuna.card"

PACKED_MANIFEST = "lacuna.json"
"""The file that makes a folder one that `lacuna quantize` wrote (packed.py)."""

MAX_HEADER_BYTES = 100_000_000
MAX_TEXT_BYTES = 1 << 27
"""No JSON file of a model is longer."""


def loads(text: str | bytes) -> Any:
    """What a JSON text says. Raises: ValueError alone, also where it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def opened(path: Path) -> BinaryIO:
    """A file, for reading. Raises: OSError, also for a pipe, which would be waited for, and for a device."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is no ordinary file")
    return path.open("rb")


def read_text(path: Path) -> str:
    """A text that belongs to a model. Raises: OSError, ValueError for what is not UTF-8 or too long to be one."""
    with opened(path) as file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"it is longer than {MAX_TEXT_BYTES >> 20} MiB")
    return data.decode("utf-8")


def read_json(path: Path) -> Any:
    """What a JSON file says. Raises: OSError, ValueError; see read_text and loads."""
    return loads(read_text(path))


@contextmanager
def written_at_once(path: Path) -> Generator[Path]:
    """A file to write, which then takes the place of path: who reads meanwhile finds the old one or the new one.

    Where that fails nothing of it stays. Raises: OSError.
    """
    waiting = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        yield waiting
        waiting.replace(path)
    finally:
        with suppress(OSError):
            waiting.unlink()


def read_metadata(path: Path) -> dict[str, str]:
    """The string metadata in the header of a .safetensors file. Raises: ModelNotFoundError, CheckpointError.

    Source: the safetensors format: eight bytes of little-endian header length, then JSON.
    """
    try:
        with opened(path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length < MAX_HEADER_BYTES else b""
    except FileNotFoundError:
        advice = "check the path, or leave the model unset to use the embedded one"
        raise ModelNotFoundError(f"{path} does not exist; {advice}") from None
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    try:
        if len(header) != length:
            raise ValueError("it ends inside its header")
        parsed = loads(header)
        return {str(k): str(v) for k, v in parsed.get("__metadata__", {}).items()}
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is truncated ({error}); copy it again") from None


def read_tokenizer(source: Path) -> str:
    """The tokenizer.json that belongs to a model folder or packed file. Raises: ModelNotFoundError, VocabularyError."""
    if source.is_dir():
        path = source / "tokenizer.json"
        try:
            return read_text(path)
        except FileNotFoundError:
            raise VocabularyError(f"{path} does not exist; copy tokenizer.json beside the model's weights") from None
        except (OSError, ValueError) as error:
            raise VocabularyError(f"{path} cannot be read ({error}); copy it again") from None
    text = read_metadata(source).get(TOKENIZER_KEY)
    if text is None:
        raise VocabularyError(f"{source} carries no tokenizer; it was not written by `lacuna export`")
    return text

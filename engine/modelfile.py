"""Where models lie on disk and what can be learned of them without loading a tensor. Imports no torch.

A model is either a folder as `save_pretrained` writes it, or one .safetensors file in our packed form, whose header
carries the config, the tokenizer and the calibration (metadata keys below).
"""

from __future__ import annotations

import json
from pathlib import Path

from .errors import CheckpointError, ModelNotFoundError, VocabularyError

EMBEDDED = Path(__file__).with_name("embedded.safetensors")
"""The checkpoint in the wheel."""

FORMAT_KEY, FORMAT_VERSION = "lacuna.format", "1"
CONFIG_KEY, TOKENIZER_KEY = "lacuna.config", "lacuna.tokenizer"
CALIBRATION_KEY, CARD_KEY = "lacuna.calibration", "lacuna.card"

MAX_HEADER_BYTES = 100_000_000


def read_metadata(path: Path) -> dict[str, str]:
    """The string metadata in the header of a .safetensors file. Raises: ModelNotFoundError, CheckpointError.

    Source: the safetensors format: eight bytes of little-endian header length, then JSON.
    """
    try:
        with path.open("rb") as file:
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
        parsed = json.loads(header)
        return {str(k): str(v) for k, v in parsed.get("__metadata__", {}).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is truncated ({error}); copy it again") from None


def read_tokenizer(source: Path) -> str:
    """The tokenizer.json that belongs to a model folder or packed file. Raises: ModelNotFoundError, VocabularyError."""
    if source.is_dir():
        path = source / "tokenizer.json"
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise VocabularyError(f"{path} does not exist; copy tokenizer.json beside the model's weights") from None
    text = read_metadata(source).get(TOKENIZER_KEY)
    if text is None:
        raise VocabularyError(f"{source} carries no tokenizer; it was not written by `lacuna export`")
    return text

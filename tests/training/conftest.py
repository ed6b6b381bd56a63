"""A corpus small enough to train on in a test: files of the standard library's json package, twice. The helpers of
tests/support are importable by their own names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lacuna_ls.engine.checkpoint import save_packed
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.engine.modelfile import TOKENIZER_KEY
from lacuna_ls.infill.tokenizer import Tokenizer
from lacuna_ls.training import sources
from lacuna_ls.training.train import SIZES, initialise

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    """In the layout of training/corpus.py, with tokenizer.json beside it."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [raw for name, raw in sources.standard_library().read() if name.startswith("json/") and len(raw) > 500]
    for split in ("train", "holdout"):
        (folder / f"{split}.bin").write_bytes(b"".join(texts))
        lengths = np.array([len(raw) for raw in texts], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        np.save(folder / f"{split}.idx.npy", np.stack([starts, lengths], axis=1))
        np.save(folder / f"{split}.weights.npy", np.ones(len(texts), dtype=np.float32))
        kinds = {"language": "python", "licence": "PSF"}
        rows = [{"package": f"p{i}", "path": f"{i}.py", **kinds} for i in range(len(texts))]
        (folder / f"{split}.files.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "tokenizer.json").write_text(small_tokenizer.to_json(), "utf-8")
    return folder


@pytest.fixture
def model_file(tmp_path: Path, small_tokenizer: Tokenizer) -> Path:
    """A small model of random weights, packed."""
    torch.manual_seed(0)
    model = initialise(DiffusionGemma(SIZES["tiny"].config(small_tokenizer.vocab_size)))
    path = tmp_path / "model.safetensors"
    save_packed(model, path, {TOKENIZER_KEY: small_tokenizer.to_json()})
    return path

"""A checkpoint through transformers' own `generate`, as somebody without this engine would use it: for benchmarks.

fp32 on the CPU, with the sampler, the steps and the stop rule that its code has by default. Knows tokens, no text.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .verify import load_truth


class Reference:
    """One model of transformers' classes."""

    def __init__(self, source: Path) -> None:
        """source: a checkpoint folder or a packed file. Raises: ModelError and its kinds."""
        # contended OpenMP threads cost ten times, and its small products gain nothing from more of them
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model = load_truth(source)
        # what its code does by default, whatever a generation_config.json says
        self._model.generation_config = type(self._model.generation_config)()

    @property
    def canvas_length(self) -> int:
        """Rows of one canvas."""
        return int(self._model.config.canvas_length)

    def generate(self, prompt: Sequence[int], num_rows: int, seed: int = 0) -> tuple[int, ...]:
        """At most num_rows tokens after prompt, as they come: end tokens and what follows them included."""
        random: Any = torch.random
        with random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            random.manual_seed(seed)
            out: Any = self._model.generate(torch.tensor([list(prompt)]), max_new_tokens=num_rows)
        return tuple(int(token) for token in out.sequences[0, len(prompt) :])

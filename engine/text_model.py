"""What the engine asks of a model and of a KV cache, so that the plain model and the packed one are interchangeable.

Two models fit: DiffusionGemma (model.py: float weights, the truth) and PackedModel (packed_model.py: quantised weights
through kernels/). Two caches fit: KVCache (one sequence, grows) and Slot (slots.py: one of several within a budget).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .config import ModelConfig


class Place(Protocol):
    """Where the next row of a sequence goes."""

    @property
    def length(self) -> int: ...

    @property
    def origin(self) -> int:
        """Where position 0 lies in a cache's `storage`."""
        ...


class Cache(Place, Protocol):
    """Keys and values of one token sequence. See KVCache for the meaning of each method."""

    tokens: tuple[int, ...]

    @property
    def num_bytes(self) -> int: ...

    def common_prefix(self, tokens: tuple[int, ...]) -> int: ...

    def truncate(self, length: int) -> None: ...

    def hold(self, tokens: tuple[int, ...]) -> None: ...

    def keep_state(self, state: Tensor) -> None: ...

    def state_after(self, length: int) -> Tensor | None: ...

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]: ...

    def advance(self, num_tokens: int) -> None: ...

    def read(self, layer: int, last: int | None = None) -> tuple[Tensor, Tensor]: ...

    def storage(self, layer: int) -> tuple[Tensor, Tensor]:
        """Everything that is allocated, [Hkv, S, D] each; positions outside the valid ones may hold anything."""
        ...

    def release(self) -> None: ...


class TextModel(Protocol):
    """See DiffusionGemma for the shapes."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def num_bytes(self) -> int:
        """Of all weights."""
        ...

    def embed(self, tokens: Tensor) -> Tensor: ...

    def soft_embedding(self, logits: Tensor) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def encode(self, tokens: Tensor, cache: Cache, only_last: bool = False) -> Tensor: ...

    def decode(
        self, tokens: Tensor, cache: Cache, soft: Tensor | None = None, num_rows: Tensor | None = None
    ) -> Tensor: ...

    def branch(self, tokens: Tensor, cache: Cache) -> Tensor: ...

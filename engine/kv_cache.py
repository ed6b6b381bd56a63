"""The encoder's keys and values of one token sequence, and which tokens they belong to.

Grows by doubling, is cut back to the longest common prefix with the next prompt, and is never written by the decoder.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from .config import ModelConfig


class HeldTokens:
    """Which tokens the valid positions of a cache belong to, and the encoder's state of one of them. KVCache and Slot
    (slots.py) differ in where they keep keys and values.
    """

    def __init__(self) -> None:
        self.length = 0
        self.tokens: tuple[int, ...] = ()
        """The token ids whose keys and values are held. Kept by whoever drives the encoder, through `hold`."""
        self._state: tuple[int, Tensor] | None = None

    def common_prefix(self, tokens: tuple[int, ...]) -> int:
        """How many leading tokens of a new prompt are held already."""
        limit = min(len(self.tokens), len(tokens))
        if self.tokens[:limit] == tokens[:limit]:
            return limit
        return next(i for i in range(limit) if self.tokens[i] != tokens[i])

    def truncate(self, length: int) -> None:
        """Forget everything from position length on. Raises: ValueError beyond what is held."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut a cache of {self.length} positions to {length}")
        self.length = length
        self.tokens = self.tokens[:length]
        if self._state is not None and self._state[0] > length:
            self._state = None

    def keep_state(self, state: Tensor) -> None:
        """state: of the last token, normed [H], which predicts the one after it. Stays while that token does."""
        self._state = self.length, state

    def state_after(self, length: int) -> Tensor | None:
        """What was kept when the cache was so long; None where nothing was, or the token is gone."""
        return self._state[1] if self._state is not None and self._state[0] == length else None

    def hold(self, tokens: tuple[int, ...]) -> None:
        """Note which tokens the positions belong to. Raises: ValueError when the count does not match."""
        if len(tokens) != self.length:
            raise ValueError(f"{len(tokens)} tokens for {self.length} cached positions")
        self.tokens = tokens

    def advance(self, num_tokens: int) -> None:
        self.length += num_tokens


class KVCache(HeldTokens):
    """Keys and values per layer: [Hkv, capacity, D] each, of which the first `length` positions are valid."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype, capacity: int = 512) -> None:
        super().__init__()
        self._config, self._device, self._dtype = config, device, dtype
        self._capacity = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._arrays: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self.reserve(capacity)

    @property
    def num_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self._keys, *self._values))

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write key and value [Hkv, T, D] after the valid positions; returns views of all [Hkv, length + T, D].

        The length changes only with `advance`, after the last layer, so a forward that fails half-way leaves it valid.
        """
        self.reserve(self.length + key.shape[1])
        return self.write(layer, self.length, key, value)

    def write(self, layer: int, position: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """`append` at any position that is reserved; what lies before it may come from another thread."""
        end = position + key.shape[1]
        self._keys[layer][:, position:end] = key
        self._values[layer][:, position:end] = value
        return self._keys[layer][:, :end], self._values[layer][:, :end]

    def read(self, layer: int, last: int | None = None) -> tuple[Tensor, Tensor]:
        """The valid keys and values [Hkv, S, D]; last: only that many of the latest positions."""
        first = 0 if last is None else max(0, self.length - last)
        return self._keys[layer][:, first : self.length], self._values[layer][:, first : self.length]

    @property
    def origin(self) -> int:
        """Where position 0 lies in `storage`."""
        return 0

    def storage(self, layer: int) -> tuple[Tensor, Tensor]:
        """Everything that is allocated, [Hkv, capacity, D] each; past the valid positions it may hold anything."""
        return self._keys[layer], self._values[layer]

    def arrays(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """`storage` of every layer without torch, on a CPU, fp32. Good until there is more room."""
        if not self._arrays:
            self._arrays = [(keys.numpy(), values.numpy()) for keys, values in zip(self._keys, self._values)]
        return self._arrays

    def release(self) -> None:
        """Give the memory back; the cache is empty afterwards and grows again when used."""
        self._keys, self._values, self._arrays, self._capacity = [], [], [], 0
        self.truncate(0)

    def copy(self, other: KVCache, length: int) -> None:
        """Hold the first positions of another cache instead of one's own. Raises: ValueError beyond what it holds."""
        if not 0 <= length <= other.length:
            raise ValueError(f"cannot copy {length} positions of a cache of {other.length}")
        self.truncate(0)
        self.reserve(length)
        for mine, theirs in zip((*self._keys, *self._values), (*other._keys, *other._values)):
            mine[:, :length] = theirs[:, :length]
        self.length, self.tokens = length, other.tokens[:length]

    def reserve(self, capacity: int) -> None:
        """Make room for so many positions. What is held stays."""
        if capacity <= self._capacity:
            return
        capacity = max(capacity, 2 * self._capacity)
        keys, values = self._keys, self._values
        shapes = [(s.num_kv_heads, capacity, s.head_dim) for s in self._config.layers]
        self._keys = [torch.empty(shape, device=self._device, dtype=self._dtype) for shape in shapes]
        self._values = [torch.empty(shape, device=self._device, dtype=self._dtype) for shape in shapes]
        for new, old in zip((*self._keys, *self._values), (*keys, *values)):
            new[:, : self._capacity] = old
        self._capacity, self._arrays = capacity, []

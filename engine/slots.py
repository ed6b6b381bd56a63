"""Several KV caches within one budget of tokens: a slot for each document that is being worked on, the oldest make
room.

All slots live in one storage per layer that is allocated once, as extents of it; so its address never changes, which
CUDA graphs need, and the device's memory use is what the plan said. A new prompt takes the slot that holds most of it;
when that would throw away another document's work, it gets a slot of its own, and what the two share is copied, not
computed again. Knows no documents: a prompt's tokens say whose it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .config import ModelConfig
from .errors import EngineError
from .kv_cache import HeldTokens

GRANULE = 256
"""Extents are multiples of this many positions, so that typing does not move them."""


class Slot(HeldTokens):
    """A Cache (text_model.py) that is an extent [first, first + capacity) of the pool's storage."""

    def __init__(self, pool: SlotPool) -> None:
        super().__init__()
        self._pool = pool
        self.first = self.capacity = 0
        self.last_used = 0

    @property
    def num_bytes(self) -> int:
        return self._pool.num_bytes

    @property
    def origin(self) -> int:
        return self.first

    @property
    def spare(self) -> int:
        """A position of the storage that no slot has: padding rows write their keys and values there."""
        return self._pool.budget

    def reserve(self, length: int) -> None:
        """Make room for so many positions, which may move the slot. What is held stays."""
        if length > self.capacity:
            self._pool.grow(self, length)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write key and value [Hkv, T, D] after the valid positions; see KVCache.append."""
        end = self.length + key.shape[1]
        self.reserve(end)
        keys, values = self._pool.storage(layer)
        keys[:, self.first + self.length : self.first + end] = key
        values[:, self.first + self.length : self.first + end] = value
        return keys[:, self.first : self.first + end], values[:, self.first : self.first + end]

    def read(self, layer: int, last: int | None = None) -> tuple[Tensor, Tensor]:
        keys, values = self._pool.storage(layer)
        low = 0 if last is None else max(0, self.length - last)
        return keys[:, self.first + low : self.first + self.length], values[
            :, self.first + low : self.first + self.length
        ]

    def storage(self, layer: int) -> tuple[Tensor, Tensor]:
        """The whole pool's; this slot's position 0 lies at `origin`."""
        return self._pool.storage(layer)

    def release(self) -> None:
        """Give the extent back to the pool. The slot is empty and grows again when used."""
        self._pool.drop(self)


class SlotPool:
    """The storage and who has which part of it."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype, budget: int = 8192) -> None:
        """budget: positions of all slots together; what it costs on the device is `num_bytes`, at once."""
        self.budget = -(-budget // GRANULE) * GRANULE
        # and one position more, see Slot.spare
        shapes = [(s.num_kv_heads, self.budget + 1, s.head_dim) for s in config.layers]
        self._keys = [torch.empty(shape, device=device, dtype=dtype) for shape in shapes]
        self._values = [torch.empty(shape, device=device, dtype=dtype) for shape in shapes]
        self.slots: list[Slot] = []
        self._clock = 0

    @property
    def num_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self._keys, *self._values))

    def storage(self, layer: int) -> tuple[Tensor, Tensor]:
        """[Hkv, budget + 1, D] each. The addresses never change."""
        return self._keys[layer], self._values[layer]

    def take(self, prompt: tuple[int, ...], num_extra: int = 0) -> Slot:
        """The slot to work on this prompt in, with room for num_extra positions behind it; what it holds already may be
        anything up to its common prefix with the prompt.

        Raises: EngineError when prompt and extra are more than the whole budget.
        """
        needed = len(prompt) + num_extra
        if needed > self.budget:
            raise EngineError(
                f"{len(prompt)} tokens of context and {num_extra} to be filled do not fit the KV budget of "
                f"{self.budget}; raise engine.kvTokens"
            )
        best = max(self.slots, key=lambda slot: (slot.common_prefix(prompt), slot.last_used), default=None)
        shared = 0 if best is None else best.common_prefix(prompt)
        if best is None or (2 * shared < best.length and shared < len(prompt)):
            slot = Slot(self)
            self.slots.append(slot)
            self._touch(slot)
            if best is not None and shared:
                # not used itself, but about to be read
                best.last_used = slot.last_used
            self.grow(slot, needed, keep=best if shared else None)
            if best is not None and shared and best in self.slots:
                self._copy(best, slot, shared)
            return slot
        self._touch(best)
        if needed > best.capacity:
            best.truncate(shared)
            self.grow(best, needed)
        return best

    def grow(self, slot: Slot, length: int, keep: Slot | None = None) -> None:
        """Give a slot room for `length` positions, moving it and dropping the least recently used others where needed.

        keep: a slot to be dropped last. Raises: EngineError beyond the budget.
        """
        capacity = -(-length // GRANULE) * GRANULE
        if capacity > self.budget:
            raise EngineError(f"{length} positions do not fit the KV budget of {self.budget}; raise engine.kvTokens")
        others = [other for other in self.slots if other is not slot]
        others.sort(key=lambda other: (other is keep, other.last_used))
        while sum(other.capacity for other in others) + capacity > self.budget:
            self.drop(others.pop(0))
        gap = self._gap(slot, others, capacity)
        if gap is not None:
            self._move({slot: gap})
        else:
            # room enough, but in pieces
            places: dict[Slot, int] = {}
            end = 0
            for other in sorted(others, key=lambda other: other.first):
                places[other] = end
                end += other.capacity
            self._move({**places, slot: end})
        slot.capacity = capacity

    def drop(self, slot: Slot) -> None:
        """Forget a slot; its extent is free."""
        slot.truncate(0)
        slot.capacity = 0
        if slot in self.slots:
            self.slots.remove(slot)

    def clear(self) -> None:
        """Drop every slot. The storage stays."""
        for slot in list(self.slots):
            self.drop(slot)

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.last_used = self._clock

    def _gap(self, slot: Slot, others: list[Slot], capacity: int) -> int | None:
        """Where an extent of that size is free: where the slot is, if it can grow there, else the first gap."""
        taken = sorted((other.first, other.first + other.capacity) for other in others if other.capacity)
        places = [slot.first] if slot.length else []
        places += [0, *(end for _, end in taken)]
        for place in places:
            end = place + capacity
            if end <= self.budget and all(end <= first or place >= last for first, last in taken):
                return place
        return None

    @torch.no_grad()
    def _move(self, places: dict[Slot, int]) -> None:
        moving = {slot: place for slot, place in places.items() if slot.length and slot.first != place}
        for storage in (*self._keys, *self._values) if moving else ():
            # all are read before any is written: extents may overlap their new places
            held = [
                (place, storage[:, slot.first : slot.first + slot.length].clone()) for slot, place in moving.items()
            ]
            for place, content in held:
                storage[:, place : place + content.shape[1]] = content
        for slot, place in places.items():
            slot.first = place

    @torch.no_grad()
    def _copy(self, source: Slot, target: Slot, length: int) -> None:
        for storage in (*self._keys, *self._values):
            storage[:, target.first : target.first + length] = storage[:, source.first : source.first + length]
        target.length, target.tokens = length, source.tokens[:length]

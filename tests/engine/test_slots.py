"""Slots: several prompts in one storage, the least recently used make room, and what moves stays the same."""

from __future__ import annotations

from itertools import pairwise

import pytest
import tiny_models as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine.errors import EngineError
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.slots import GRANULE, Slot, SlotPool

CPU = torch.device("cpu")
CONFIG = tiny.tiny_config()


def pool(budget: int = 4 * GRANULE) -> SlotPool:
    return SlotPool(CONFIG, CPU, torch.float32, budget)


def write(slot: Slot, tokens: tuple[int, ...]) -> None:
    """Keys and values that say which token they belong to, in every layer."""
    new = tokens[slot.length :]
    for layer, spec in enumerate(CONFIG.layers):
        values = torch.tensor(new, dtype=torch.float32)[None, :, None].expand(spec.num_kv_heads, -1, spec.head_dim)
        slot.append(layer, values + layer, values - layer)
    slot.advance(len(new))
    slot.hold(tokens)


def is_intact(slot: Slot) -> bool:
    wanted = torch.tensor(slot.tokens, dtype=torch.float32)
    for layer in range(len(CONFIG.layers)):
        keys, values = slot.read(layer)
        if not (torch.equal(keys[0, :, 0], wanted + layer) and torch.equal(values[-1, :, -1], wanted - layer)):
            return False
    return True


def use(slots: SlotPool, prompt: tuple[int, ...], num_extra: int = 0) -> Slot:
    slot = slots.take(prompt, num_extra)
    slot.truncate(slot.common_prefix(prompt))
    write(slot, prompt)
    return slot


def prompt(seed: int, length: int) -> tuple[int, ...]:
    return tuple(torch.randint(0, 97, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def test_typing_stays_in_one_slot_and_another_document_gets_its_own():
    slots = pool()
    a = use(slots, prompt(1, 100))
    assert use(slots, (*prompt(1, 100), 5, 6)) is a
    # deleting a few characters is still the same document
    assert use(slots, (*prompt(1, 100)[:90], 7)) is a
    b = use(slots, prompt(2, 50))
    assert b is not a
    assert slots.take((*prompt(1, 100)[:90], 7)) is a
    assert is_intact(a)
    assert is_intact(b)


def test_a_shared_beginning_is_copied_not_computed():
    slots = pool()
    a = use(slots, (*prompt(9, 40), *prompt(1, 200)))
    b = slots.take((*prompt(9, 40), *prompt(2, 200)))
    assert b is not a
    assert b.tokens == prompt(9, 40)
    assert is_intact(b)
    assert is_intact(a)


def test_the_least_recently_used_makes_room():
    slots = pool(3 * GRANULE)
    a, b, c = (use(slots, prompt(seed, 200)) for seed in (1, 2, 3))
    use(slots, (*prompt(1, 200), 1))
    d = use(slots, prompt(4, 200))
    assert slots.slots == [a, c, d]
    assert b.length == 0
    assert all(is_intact(slot) for slot in slots.slots)


def test_a_slot_grows_over_pieces_of_free_room():
    slots = pool(5 * GRANULE)
    a, b, c = (use(slots, prompt(seed, 200)) for seed in (1, 2, 3))
    slots.drop(b)
    # needs three granules; one is free between a and c, two behind c
    d = use(slots, prompt(4, 2 * GRANULE + 10))
    assert {a, c, d} == set(slots.slots)
    assert all(is_intact(slot) for slot in (a, c, d))


def test_an_answer_that_is_appended_makes_its_slot_grow():
    slots = pool()
    a, b = use(slots, prompt(1, GRANULE - 1)), use(slots, prompt(2, 10))
    a = use(slots, (*prompt(1, GRANULE - 1), *range(60)))
    assert is_intact(a)
    assert is_intact(b)


def test_more_than_the_budget_is_refused_with_advice():
    slots = pool(GRANULE)
    with pytest.raises(EngineError, match=r"raise engine\.kvTokens"):
        slots.take(prompt(1, GRANULE), 1)
    a = use(slots, prompt(1, GRANULE))
    with pytest.raises(EngineError, match=r"raise engine\.kvTokens"):
        write(a, (*prompt(1, GRANULE), 1))
    assert is_intact(a)


def test_the_storage_never_moves_and_costs_what_the_plan_says():
    slots = pool(1000)
    addresses = [slots.storage(i)[0].data_ptr() for i in range(4)]
    assert slots.budget == 1024
    # and one position that padding writes to
    assert slots.num_bytes == KVCache(CONFIG, CPU, torch.float32, 1025).num_bytes
    for seed in range(8):
        use(slots, prompt(seed, 300))
    slots.clear()
    assert not slots.slots
    assert addresses == [slots.storage(i)[0].data_ptr() for i in range(4)]


def test_misuse_is_refused():
    slots = pool()
    slot = use(slots, prompt(1, 10))
    with pytest.raises(ValueError, match="cannot cut"):
        slot.truncate(11)
    with pytest.raises(ValueError, match="cached positions"):
        slot.hold((1, 2))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 600), st.integers(0, 100)), min_size=1, max_size=25))
def test_nothing_is_ever_mixed_up(calls: list[tuple[int, int, int]]):
    slots = pool()
    for seed, length, shared in calls:
        wanted = (*prompt(0, min(shared, length)), *prompt(seed, length))[:length]
        slot = use(slots, wanted, num_extra=20)
        assert slot.tokens == wanted
        assert sum(each.capacity for each in slots.slots) <= slots.budget
        spans = sorted((each.first, each.first + each.capacity) for each in slots.slots)
        assert all(last <= first for (_, last), (first, _) in pairwise(spans))
        assert all(is_intact(each) for each in slots.slots)

"""Parts of one forward in several threads: the same states, the same cache, and failures that end."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine import model as model_module
from lacuna_ls.engine.int8 import convert
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.wavefront import Front, in_parts
from random_models import CONFIG, random_model

MODELS = [random_model(seed=8), convert(random_model(seed=8), "float")]


@settings(max_examples=30, deadline=None)
@given(
    num_rows=st.integers(8, 90), num_held=st.sampled_from([0, 1, 20]), num_parts=st.integers(2, 4),
    only_last=st.booleans(), which=st.integers(0, 1), seed=st.integers(0, 99),
)  # fmt: skip
def test_parts_are_the_whole(
    num_rows: int, num_held: int, num_parts: int, only_last: bool, which: int, seed: int
):
    tokens = torch.randint(0, CONFIG.vocab_size, (num_held + num_rows,), generator=torch.Generator().manual_seed(seed))
    model = MODELS[which]
    caches, states = [], []
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(model_module, "MIN_PART", 2)
        patch.setattr(model_module, "MAX_FEW", 0)
        for parts in (1, num_parts):
            patch.setattr(model, "num_parts", parts)
            # it has to grow
            cache = KVCache(CONFIG, model.device, torch.float32, capacity=4)
            if num_held:
                model.encode(tokens[:num_held], cache)
            states.append(model.encode(tokens[num_held:], cache, only_last))
            caches.append(cache)
    assert states[0].shape == states[1].shape
    assert torch.allclose(states[0], states[1], atol=1e-4)
    assert caches[0].length == caches[1].length == len(tokens)
    for layer in range(len(CONFIG.layers)):
        for one, other in zip(caches[0].read(layer), caches[1].read(layer), strict=True):
            assert torch.allclose(one, other, atol=1e-4)


def test_each_part_runs_behind_the_one_ahead():
    """No part passes a layer before all parts ahead of it have reached that layer."""
    order: list[tuple[int, int]] = []
    lock = threading.Lock()

    def run(part: int, ahead: Front | None, front: Front) -> torch.Tensor:
        for layer in range(5):
            if ahead is not None:
                ahead.wait(layer)
            with lock:
                order.append((layer, part))
            front.reach(layer)
        return torch.tensor(part)

    assert [int(part) for part in in_parts(4, 5, run)] == [0, 1, 2, 3]
    for layer in range(5):
        assert [part for each, part in order if each == layer] == [0, 1, 2, 3]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_part_that_fails_ends_all_and_is_the_one_to_be_told(failing: int):
    def run(part: int, ahead: Front | None, front: Front) -> torch.Tensor:
        for layer in range(3):
            if ahead is not None:
                ahead.wait(layer)
            if part == failing and layer == 1:
                raise RuntimeError(f"part {part}")
            front.reach(layer)
        return torch.tensor(part)

    before = threading.active_count()
    with pytest.raises(RuntimeError, match=f"part {failing}"):
        in_parts(3, 3, run)
    assert threading.active_count() == before


def test_threads_take_the_callers_settings():
    def run(part: int, ahead: Front | None, front: Front) -> torch.Tensor:
        return torch.tensor([torch.is_inference_mode_enabled(), torch.is_grad_enabled()])

    for is_inference, is_recording in ((True, False), (False, False), (False, True)):
        with torch.inference_mode(is_inference), torch.set_grad_enabled(is_recording):
            parts = in_parts(2, 1, run)
        assert parts[0].tolist() == parts[1].tolist() == [is_inference, is_recording]


def test_a_failed_forward_leaves_the_cache_valid(monkeypatch: pytest.MonkeyPatch):
    model = random_model(seed=8)
    model.num_parts = 2
    monkeypatch.setattr(model_module, "MIN_PART", 2)
    cache = KVCache(CONFIG, model.device, torch.float32)
    model.encode(torch.arange(10), cache)
    with monkeypatch.context() as patch:
        patch.setattr(type(model.layers[1]), "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            model.encode(torch.arange(10, 30), cache)
    assert cache.length == 10
    again = model.encode(torch.arange(10, 30), cache)
    cold = KVCache(CONFIG, model.device, torch.float32)
    model.num_parts = 1
    assert torch.allclose(again, model.encode(torch.arange(30), cold)[10:], atol=1e-4)

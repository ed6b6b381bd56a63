"""The life of a model on a device, with a device that is made to fail."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from lacuna_ls.engine.errors import CheckpointError, DeviceError, EngineError, ModelNotFoundError
from lacuna_ls.engine.formats import EXACT
from lacuna_ls.engine.life import LOADING, MIN_KV_TOKENS, NOT_YET, RETRY_AFTER_S, ManagedEngine, device_trouble
from lacuna_ls.engine.packed import load_packed
from lacuna_ls.engine.packed_engine import PackedEngine, cap_memory, choose_device, load_engine
from lacuna_ls.engine.pipeline import StepOptions
from lacuna_ls.engine.problem import Canvas, CanvasProblem, CanvasResult, EngineStatus, Timings

PROBLEM = CanvasProblem((1, 2, 3), (Canvas.free(2),))
OOM = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
LOST = RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported")


def copy_of(error: Exception, cause: Exception | None = None, during: Exception | None = None) -> Exception:
    """A copy of error, raised from cause, or while another was handled."""
    copy = type(error)(*error.args)
    copy.__cause__, copy.__context__ = cause or error.__cause__, during or error.__context__
    return copy


class Device:
    """Counts what is on it, and fails when told to."""

    def __init__(self) -> None:
        self.num_loaded = self.num_loads = self.num_warm_ups = self.num_returned = 0
        self.budgets: list[int] = []
        self.load_errors: list[Exception] = []
        self.warm_up_errors: list[Exception] = []
        self.fill_errors: list[Exception] = []
        self.shrink_errors: list[Exception] = []
        self.probe_errors: list[Exception] = []
        self.now = 0.0

    def load(self, kv_tokens: int) -> FakeEngine:
        self.num_loads += 1
        self.budgets.append(kv_tokens)
        if self.load_errors:
            raise self.load_errors.pop(0)
        return FakeEngine(self, kv_tokens)

    def return_memory(self) -> None:
        self.num_returned += 1

    def probe(self) -> None:
        if self.probe_errors:
            raise self.probe_errors.pop(0)


class FakeEngine:
    def __init__(self, device: Device, kv_tokens: int) -> None:
        self.device, self.kv_tokens = device, kv_tokens
        device.num_loaded += 1

    def warm_up(self) -> None:
        self.device.num_warm_ups += 1
        if self.device.warm_up_errors:
            raise self.device.warm_up_errors.pop(0)

    def prefill(self, prompt, cancelled=None) -> Timings:
        return Timings(num_prefilled=len(prompt))

    def fill(self, problem, cancelled=None) -> list[CanvasResult]:
        if self.device.fill_errors:
            raise self.device.fill_errors.pop(0)
        return [CanvasResult((7,) * 2, (0.0,) * 2, (0.0,) * 2, 2, 1, True)]

    def shrink(self, kv_tokens: int) -> None:
        if self.device.shrink_errors:
            raise self.device.shrink_errors.pop(0)
        self.kv_tokens = kv_tokens
        self.device.budgets.append(kv_tokens)

    def status(self) -> EngineStatus:
        return EngineStatus("ready", "fake", "cuda:0", "", 15, self.kv_tokens)

    def close(self) -> None:
        self.device.num_loaded -= 1


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def engine(device: Device) -> ManagedEngine:
    return ManagedEngine(
        device.load, 8192, "big", idle_minutes=10, clock=lambda: device.now, return_memory=device.return_memory,
        probe=device.probe, has_timer=False,
    )  # fmt: skip


def test_loaded_when_first_needed_and_warmed_up(device: Device, engine: ManagedEngine):
    assert engine.status() == EngineStatus("unloaded", "big", detail=NOT_YET)
    assert device.num_loads == 0
    assert engine.fill(PROBLEM)[0].tokens == (7, 7)
    assert engine.prefill((1, 2)).num_prefilled == 2
    assert (device.num_loads, device.num_warm_ups) == (1, 1)
    assert engine.status() == EngineStatus("ready", "fake", "cuda:0", "", 15, 8192)


def test_idle_gives_the_memory_back(device: Device, engine: ManagedEngine):
    engine.fill(PROBLEM)
    device.now = 599
    assert not engine.tick()
    engine.prefill((1,))
    device.now = 1198
    assert not engine.tick()
    device.now = 1199
    assert engine.tick()
    assert (device.num_loaded, device.num_returned) == (0, 1)
    assert engine.status().state == "unloaded"
    assert "idle" in engine.status().detail
    assert engine.fill(PROBLEM)[0].is_finished
    assert device.num_loads == 2


def test_the_timer_does_the_same_by_itself(device: Device):
    dropped = threading.Event()
    device.return_memory = dropped.set  # type: ignore[method-assign]
    engine = ManagedEngine(
        device.load, 8192, idle_minutes=0.001, return_memory=device.return_memory, probe=device.probe
    )
    engine.load()
    assert dropped.wait(10)
    engine.close()


def test_zero_minutes_is_never(device: Device):
    engine = ManagedEngine(
        device.load, 8192, idle_minutes=0, clock=lambda: device.now, return_memory=device.return_memory
    )
    engine.load()
    device.now = 1e9
    assert not engine.tick()


def test_unload(device: Device, engine: ManagedEngine):
    engine.load()
    engine.unload()
    assert (device.num_loaded, device.num_returned) == (0, 1)
    assert "next request" in engine.status().detail
    # what only prepares a request loads nothing
    assert engine.prefill((1, 2)) == Timings()
    assert device.num_loads == 1
    assert engine.fill(PROBLEM)[0].is_finished
    assert device.num_loaded == 1


def test_no_work_after_a_cancel(device: Device, engine: ManagedEngine):
    assert engine.fill(PROBLEM, lambda: True)[0].is_cancelled
    assert engine.prefill((1,), lambda: True) == Timings()
    assert device.num_loads == 0
    # cancelled while the model was loading: the model stays, the work is not done
    answers = iter((False, True))
    assert engine.fill(PROBLEM, lambda: next(answers))[0].is_cancelled
    assert engine.status().state == "ready"


def test_memory_that_runs_out_shrinks_the_cache_and_tries_once_more(device: Device, engine: ManagedEngine):
    device.fill_errors = [OOM]
    assert engine.fill(PROBLEM)[0].is_finished
    assert device.budgets == [8192, 4096]
    assert engine.status().kv_bytes == 4096
    assert "4096" in engine.status().detail
    assert device.num_loads == 1


@pytest.mark.parametrize(
    "shrink_errors", [pytest.param([], id="the retry fails"), pytest.param([OOM], id="shrinking itself fails")]
)
def test_memory_that_stays_short_is_a_clear_state(
    device: Device, engine: ManagedEngine, shrink_errors: list[Exception]
):
    device.fill_errors, device.shrink_errors = [OOM, OOM], list(shrink_errors)
    with pytest.raises(DeviceError, match=r"ran out of memory.*close what else uses"):
        engine.fill(PROBLEM)
    assert device.num_loaded == 0
    assert engine.status().state == "failed"
    device.fill_errors = []
    # nothing is tried until a minute has passed
    with pytest.raises(DeviceError, match="ran out of memory"):
        engine.fill(PROBLEM)
    assert device.num_loads == 1
    device.now += RETRY_AFTER_S
    assert engine.fill(PROBLEM)[0].is_finished


def test_what_cannot_be_lowered_is_not_advised(device: Device):
    # at the least budget there is nothing to lower
    for kv_tokens, advised in ((MIN_KV_TOKENS, False), (4 * MIN_KV_TOKENS, True)):
        engine = ManagedEngine(
            device.load, kv_tokens, clock=lambda: device.now, return_memory=device.return_memory, has_timer=False
        )
        device.fill_errors = [OOM, OOM]
        with pytest.raises(DeviceError) as raised:
            engine.fill(PROBLEM)
        assert ("lower engine.kvTokens" in str(raised.value)) == advised
        device.fill_errors = []


def test_a_budget_that_is_cut_ends_where_every_question_still_fits(device: Device):
    engine = ManagedEngine(device.load, 3000, return_memory=device.return_memory, has_timer=False)
    device.fill_errors = [OOM]
    engine.fill(PROBLEM)
    assert device.budgets == [3000, MIN_KV_TOKENS]


def test_a_budget_that_was_cut_is_whole_again_after_the_next_load(device: Device, engine: ManagedEngine):
    device.fill_errors = [OOM]
    engine.fill(PROBLEM)
    device.now = 600
    assert engine.tick()
    engine.fill(PROBLEM)
    assert device.budgets == [8192, 4096, 8192]
    assert engine.status() == EngineStatus("ready", "fake", "cuda:0", "", 15, 8192)


def test_what_prepares_a_request_does_not_try_a_failed_device_again(device: Device, engine: ManagedEngine):
    device.load_errors = [OOM, OOM]
    with pytest.raises(DeviceError):
        engine.load()
    device.now += RETRY_AFTER_S
    with pytest.raises(DeviceError):
        engine.prefill((1, 2))
    assert device.num_loads == 2
    assert engine.fill(PROBLEM)[0].is_finished


def test_load_forgets_a_failure_at_once(device: Device, engine: ManagedEngine):
    device.fill_errors = [OOM, OOM]
    with pytest.raises(DeviceError):
        engine.fill(PROBLEM)
    engine.load()
    assert engine.fill(PROBLEM)[0].is_finished
    assert device.budgets[-1] == 8192


def test_the_cache_is_never_shrunk_to_nothing(device: Device):
    engine = ManagedEngine(
        device.load, MIN_KV_TOKENS, clock=lambda: device.now, return_memory=device.return_memory, has_timer=False
    )
    device.fill_errors = [OOM]
    with pytest.raises(DeviceError):
        engine.fill(PROBLEM)
    assert device.budgets == [MIN_KV_TOKENS]


def test_loading_into_short_memory(device: Device, engine: ManagedEngine):
    device.load_errors = [OOM]
    engine.load()
    assert device.budgets == [8192, 4096]
    engine.unload()
    device.load_errors = [OOM, OOM]
    with pytest.raises(DeviceError, match="too little free memory"):
        engine.load()
    assert engine.status().state == "failed"


def test_memory_that_runs_out_in_the_warm_up_shrinks_the_cache_too(device: Device, engine: ManagedEngine):
    device.warm_up_errors = [OOM]
    engine.load()
    assert device.budgets == [8192, 4096]
    # the engine that could not be warmed up is closed
    assert (device.num_loaded, device.num_warm_ups) == (1, 2)
    engine.unload()
    device.warm_up_errors = [OOM, OOM]
    with pytest.raises(DeviceError, match="too little free memory"):
        engine.load()
    assert device.num_loaded == 0


class Weights:
    """What a load that fails half-way has made by then."""


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        pytest.param([OOM, OOM], DeviceError, id="memory, twice"),
        pytest.param([LOST], DeviceError, id="the device is lost"),
        pytest.param([CheckpointError("tensor y holds NaN; copy it again")], CheckpointError, id="a broken file"),
        pytest.param([KeyError("x")], KeyError, id="a mistake of ours"),
    ],
)
@pytest.mark.parametrize("where", ["load", "warm-up"])
def test_a_failed_load_leaves_nothing_behind(errors: list[Exception], expected: type[Exception], where: str):
    # new ones: who keeps an error keeps its frames
    waiting = [copy_of(error) for error in errors]
    weights, alive = list[weakref.ref[Weights]](), list[bool]()

    class Half(FakeEngine):
        held: Weights

        def warm_up(self) -> None:
            raise waiting.pop(0)

    def load(kv_tokens: int) -> FakeEngine:
        made = Weights()
        weights.append(weakref.ref(made))
        if where == "load":
            raise waiting.pop(0)
        engine = Half(Device(), kv_tokens)
        engine.held = made
        return engine

    engine = ManagedEngine(
        load, 8192, return_memory=lambda: alive.append(weights[-1]() is not None), probe=lambda: None, has_timer=False
    )
    with pytest.raises(expected) as caught:
        engine.load()
    # the memory was returned after every attempt, and nothing held the weights then, whoever holds the error now
    assert alive == [False] * len(errors)
    assert caught.value is not None
    # where it was raised can still be read
    if not isinstance(caught.value, DeviceError):
        assert caught.traceback[-1].name in ("load", "warm_up")


def test_a_plan_that_does_not_fit_is_said_as_it_is(device: Device, engine: ManagedEngine):
    device.load_errors = [DeviceError("the model needs 18 GB and 12 GB are to be had: use the embedded model")]
    with pytest.raises(DeviceError, match="18 GB"):
        engine.fill(PROBLEM)
    assert engine.status().state == "failed"
    assert "18 GB" in engine.status().detail


def test_a_lost_device_is_reported_probed_and_used_again(device: Device, engine: ManagedEngine):
    device.fill_errors = [LOST]
    with pytest.raises(DeviceError, match=r"device was lost \(CUDA error: unspecified launch failure\)"):
        engine.fill(PROBLEM)
    assert device.num_loaded == 0
    # after a minute it is probed first, and nothing is loaded onto a dead device
    device.probe_errors = [LOST]
    device.now += RETRY_AFTER_S
    with pytest.raises(DeviceError, match="restart the server"):
        engine.fill(PROBLEM)
    assert device.num_loads == 1
    device.now += RETRY_AFTER_S
    assert engine.fill(PROBLEM)[0].is_finished
    assert device.num_loads == 2


def test_a_mistake_of_ours_is_not_hidden(device: Device, engine: ManagedEngine):
    device.fill_errors = [ValueError("token ids must be")]
    with pytest.raises(ValueError, match="token ids"):
        engine.fill(PROBLEM)
    assert engine.status().state == "ready"
    engine.unload()
    device.load_errors = [ModelNotFoundError("gone"), KeyError("x")]
    with pytest.raises(ModelNotFoundError):
        engine.load()
    with pytest.raises(KeyError):
        engine.load()
    assert engine.status().state == "unloaded"


def test_the_status_tells_how_much_is_loaded():
    seen: list[str] = []

    def load(kv_tokens: int) -> FakeEngine:
        seen.append(engine.status().detail)
        engine.told_progress(5_000_000_000, 15_000_000_000)
        seen.append(engine.status().detail)
        return FakeEngine(Device(), kv_tokens)

    engine = ManagedEngine(load, 8192, has_timer=False)
    engine.load()
    assert seen == [LOADING, f"{LOADING}: 33 %"]
    # what comes late changes nothing
    engine.told_progress(1, 2)
    assert engine.status().detail == ""


def test_a_mistake_while_the_cache_is_cut_is_not_taken_for_an_exhausted_device(device: Device, engine: ManagedEngine):
    device.fill_errors, device.shrink_errors = [OOM], [TypeError("one argument too many")]
    with pytest.raises(TypeError, match="one argument"):
        engine.fill(PROBLEM)


def test_closed_is_closed(device: Device, engine: ManagedEngine):
    engine.load()
    engine.close()
    assert (device.num_loaded, engine.status().state) == (0, "closed")
    with pytest.raises(EngineError, match="closed"):
        engine.fill(PROBLEM)
    engine.unload()
    assert engine.status().state == "closed"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(OOM, "memory", id="torch's own class"),
        pytest.param(RuntimeError("CUDA error: out of memory"), "memory", id="an allocation of the driver's"),
        pytest.param(
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "memory",
            id="the machine's own memory",
        ),
        pytest.param(MemoryError(), "memory", id="the machine's, by numpy or Python"),
        pytest.param(LOST, "lost", id="a failed launch"),
        pytest.param(RuntimeError("Triton Error [CUDA]: out of memory"), "memory", id="memory, by triton"),
        pytest.param(
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory",
            id="memory, by cuBLAS",
        ),
        pytest.param(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "memory", id="memory, by cuBLAS alone"),
        pytest.param(
            RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), "lost", id="by triton"
        ),
        pytest.param(RuntimeError("Triton Error [CUDA]: unspecified launch failure"), "lost", id="a triton launch"),
        pytest.param(RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"), "lost", id="by cuBLAS alone"),
        pytest.param(copy_of(LOST, during=OOM), "memory", id="memory in a capture, whose end fails too"),
        pytest.param(copy_of(RuntimeError("the kernel"), cause=OOM), "memory", id="what it was raised from"),
        pytest.param(copy_of(copy_of(KeyError(3), cause=LOST), during=ValueError()), "lost", id="further back"),
        pytest.param(RuntimeError("shape mismatch"), None, id="anything else"),
        pytest.param(ValueError("CUDA error"), None, id="not torch's"),
    ],
)
def test_what_an_exception_says_about_the_device(error: Exception, kind: str | None):
    assert device_trouble(error) == kind


# -- the real engine, on the CPU
# ------------------------------------------------------------------------------------------


def test_unloading_leaves_no_tensor_behind(tmp_path: Path):
    config = tiny.tiny_config()
    source = tiny.save_shards(tiny.tiny_model(config), tmp_path)
    tables: list[weakref.ref[torch.Tensor]] = []

    def load(kv_tokens: int) -> PackedEngine:
        model = load_packed(source, EXACT)
        tables.append(weakref.ref(model.table))
        return PackedEngine(model, kv_tokens=kv_tokens, options=StepOptions())

    engine = ManagedEngine(load, 2048, has_timer=False)
    problem = CanvasProblem((5, 6, 7), (Canvas.free(4),), max_steps=2)
    first = engine.fill(problem)
    assert engine.status().weights_bytes > 0
    assert tables[0]() is not None
    engine.unload()
    gc.collect()
    assert tables[0]() is None
    assert engine.fill(problem)[0].tokens == first[0].tokens


def test_a_fill_that_fails_twice_leaves_no_tensor_behind(tmp_path: Path):
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path)
    tensors: list[weakref.ref[object]] = []
    alive: list[list[bool]] = []

    class Failing(PackedEngine):
        def fill(self, problem, cancelled=None):
            super().fill(problem, cancelled)
            held = torch.zeros(1)
            tensors.append(weakref.ref(held))
            raise torch.OutOfMemoryError("CUDA out of memory")

    def load(kv_tokens: int) -> PackedEngine:
        engine = Failing(load_packed(source, EXACT), kv_tokens=kv_tokens)
        tensors.extend((weakref.ref(engine), weakref.ref(engine.model)))
        return engine

    engine = ManagedEngine(
        load, 2 * MIN_KV_TOKENS, return_memory=lambda: alive.append([each() is not None for each in tensors]),
        has_timer=False,
    )  # fmt: skip
    with pytest.raises(DeviceError, match="out of memory"):
        engine.fill(CanvasProblem((5, 6, 7), (Canvas.free(4),), max_steps=2))
    # before and after the cache is cut the engine is there, and nothing of the forward that failed; then nothing is
    assert alive == [[True, True, False], [True, True, False], [False] * 4]


def test_shrinking_the_real_engine(tmp_path: Path):
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path)
    engine = PackedEngine(load_packed(source, EXACT), kv_tokens=2048)
    problem = CanvasProblem((5, 6, 7), (Canvas.free(4),), max_steps=2)
    first, before = engine.fill(problem), engine.status().kv_bytes
    engine.shrink(1024)
    assert engine.kv_tokens == 1024
    assert engine.status().kv_bytes / before == pytest.approx(0.5, rel=1e-3)
    assert engine.fill(problem)[0].tokens == first[0].tokens


@pytest.mark.parametrize(
    ("cap_bytes", "share"),
    [
        pytest.param(None, 1.0, id="no limit"),
        pytest.param(12_500_000_000, 0.5, id="what the CUDA context takes is not torch's"),
        pytest.param(100_000_000_000, 1.0, id="more than the device has"),
    ],
)
def test_torch_is_held_to_the_cap(monkeypatch: pytest.MonkeyPatch, cap_bytes: int | None, share: float):
    told: list[tuple[float, int | None]] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 24_000_000_000))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: told.append(given))
    cap_memory(cap_bytes, "cuda:1")
    assert told == [(share, 1)]


def test_the_device_is_chosen_by_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(tmp_path, "auto") == "cuda"
    assert choose_device(tmp_path, "cpu") == "cpu"
    assert choose_device(None, "auto") == choose_device(tmp_path / "model.safetensors", "auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(tmp_path, "auto") == "cpu"


def test_which_engine_a_model_gets(tmp_path: Path):
    model = tiny.tiny_model(tiny.tiny_config(hidden_size=64))
    plain = load_engine(tiny.save_shards(model, tmp_path / "plain"))
    quantised = load_engine(tiny.save_int4(model, tmp_path / "int4"), kv_tokens=1024)
    assert type(plain).__name__ == "LocalEngine"
    assert isinstance(quantised, PackedEngine)
    assert load_engine(None).status().model == "embedded"
    with pytest.raises(DeviceError, match=r"KV budget|24 GB|GB are to be had"):
        PackedEngine.load_folder(tmp_path / "int4", "cpu", cap_bytes=1000)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA device"):
            load_engine(tmp_path / "plain", "cuda")

"""The memory plan: exact where it can be, under 18 GB for the released model, and with advice that works."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from lacuna_ls.engine import plan as plan_module
from lacuna_ls.engine import threads
from lacuna_ls.engine.checkpoint import save_folder
from lacuna_ls.engine.config import ModelConfig
from lacuna_ls.engine.errors import DeviceError, ModelNotFoundError
from lacuna_ls.engine.formats import Scheme
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.packed import load_packed, quantize
from lacuna_ls.engine.packed_engine import load_engine
from lacuna_ls.engine.plan import host_bytes, plan, plan_folder, plan_table
from lacuna_ls.training.adapt import load_base

RELEASED = Path(__file__).parents[2] / "bench" / "diffusiongemma_26b.json"


@pytest.fixture(scope="module")
def released() -> ModelConfig:
    return ModelConfig.load(RELEASED)


def test_the_released_model_fits_18_gb_with_8k_tokens(released: ModelConfig):
    found = plan(released, Scheme(), kv_tokens=8192, free=24_000_000_000)
    assert found.total < 18e9
    assert found.weights_total == pytest.approx(15.37e9, rel=0.01)
    assert found.kv == pytest.approx(1.845e9, rel=0.01)
    assert found.fits
    assert not found.advice()


@pytest.mark.parametrize(
    ("scheme", "gigabytes"),
    [
        pytest.param(Scheme(dense="fp8"), 15.3, id="fp8 for attention and dense"),
        pytest.param(Scheme(experts_group=32), 16.1, id="g32, as published INT4"),
        pytest.param(Scheme("int8"), 26.8, id="int8 experts: a 48 GB card"),
        pytest.param(Scheme("bf16", 0, "bf16", 0), 50.5, id="bf16: two cards"),
    ],
)
def test_weights_by_scheme(released: ModelConfig, scheme: Scheme, gigabytes: float):
    assert plan(released, scheme).weights_total / 1e9 == pytest.approx(gigabytes, abs=0.15)


def test_plan_equals_what_is_allocated(tmp_path: Path):
    config = tiny.tiny_config(hidden_size=96)
    source = tiny.save_shards(tiny.tiny_model(config), tmp_path / "source")
    model = load_packed(source)
    found = plan_folder(source)
    assert found.weights_total == model.num_bytes
    assert found.kv_token * 512 == KVCache(config, torch.device("cpu"), torch.bfloat16, 512).num_bytes
    # a packed folder is planned as it was packed, whatever the default is
    quantize(source, tmp_path / "packed", Scheme("int8", 32, "fp8"))
    stored = plan_folder(tmp_path / "packed")
    assert stored.weights_total == load_packed(tmp_path / "packed").num_bytes
    assert stored.formats["attention"] == "fp8"


@pytest.mark.parametrize(
    ("free", "cap", "advice"),
    [
        pytest.param(
            17_000_000_000,
            None,
            r"over the free memory of the device; set the KV budget to \d+ tokens",
            id="a smaller cache fits",
        ),
        pytest.param(24_000_000_000, 17_000_000_000, "over the cap; set the KV budget", id="the user's own limit"),
        pytest.param(
            24_000_000_000, 17_000_000_000, r"or raise the cap \(engine.vramCapGib\)$", id="and the device has more"
        ),
        pytest.param(
            24_000_000_000,
            12_000_000_000,
            r"over the cap; raise the cap \(engine.vramCapGib\), or use",
            id="the weights alone are over the user's own limit",
        ),
        pytest.param(
            17_000_000_000,
            12_000_000_000,
            r"over the cap; raise the cap \(engine.vramCapGib\) and free memory on the device, or use",
            id="a higher limit alone would not do",
        ),
        pytest.param(
            12_000_000_000,
            None,
            "free memory on the device, or use a device with 24 GB",
            id="the weights alone are too much",
        ),
    ],
)
def test_refusal_says_what_to_do(released: ModelConfig, free: int, cap: int | None, advice: str):
    found = plan(released, Scheme(), free=free, cap=cap)
    assert not found.fits
    with pytest.raises(DeviceError, match=advice):
        found.check()
    if found.most_kv_tokens and found.most_kv_tokens > 1024:
        plan(released, Scheme(), kv_tokens=found.most_kv_tokens, free=free, cap=cap).check()


def test_larger_formats_are_sent_to_quantize(released: ModelConfig):
    assert "lacuna quantize" in plan(released, Scheme("int8"), free=24_000_000_000).advice()


def test_table_for_people(tmp_path: Path, released: ModelConfig):
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path)
    lines = dict(plan_table(plan_folder(source, free=2_000_000_000)))
    assert {
        "experts",
        "attention",
        "dense",
        "embedding",
        "weights",
        "KV cache",
        "workspace",
        "total",
    } <= lines.keys()
    assert lines["experts"].endswith("int4")
    assert lines["to be had"] == "  2.00 GB  free on the GPU"
    assert dict(plan_table(plan_folder(source, free=2, cap=1)))["to be had"].endswith("the cap")
    assert "to be had" not in dict(plan_table(plan_folder(source)))
    with pytest.raises(ModelNotFoundError):
        plan_folder(tmp_path / "nowhere")


def test_without_a_gpu_a_model_that_would_take_the_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "released"
    folder.mkdir()
    (folder / "config.json").write_bytes(RELEASED.read_bytes())
    monkeypatch.setattr(plan_module, "memory_bytes", lambda: 64e9)
    # read in fp32: nobody loads it for that
    assert host_bytes(folder) > 100e9
    with pytest.raises(DeviceError, match=r"needs 10\d\.\d GB of memory and this machine has 64\.0 in all; use a"):
        load_engine(folder, "cpu")
    with pytest.raises(DeviceError, match="without a GPU"):
        load_base(folder, "cpu")
    small, packed = tmp_path / "small", tmp_path / "packed"
    save_folder(tiny.tiny_model(tiny.tiny_config()), small)
    quantize(small, packed, Scheme(experts_group=32, dense_group=32, dtype=torch.float32))
    assert host_bytes(packed) == plan_folder(packed).total
    for source in (small, packed):
        load_engine(source, "cpu").close()
        short = 2 * host_bytes(source) - 2
        monkeypatch.setattr(plan_module, "memory_bytes", partial(float, short))
        with pytest.raises(DeviceError, match="without a GPU"):
            load_engine(source, "cpu")
        monkeypatch.setattr(plan_module, "memory_bytes", partial(float, "inf"))


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_container_has_less_memory_than_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str):
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    whole = plan_module.memory_bytes()
    limit = tmp_path / name
    limit.parent.mkdir(exist_ok=True)
    for told, memory in (("1000000\n", 1e6), ("max\n", whole), ("9223372036854771712\n", whole)):
        limit.write_text(told)
        assert plan_module.memory_bytes() == memory

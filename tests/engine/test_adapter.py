"""Adapters: the merged weights are the explicit low-rank sum, and what does not belong together is refused."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
import torch
from lacuna_ls.engine.adapter import Adapter, load_adapter, read_adapter, save_adapter
from lacuna_ls.engine.adapter_file import adapter_file, find_adapter, fingerprint, forget_adapter
from lacuna_ls.engine.checkpoint import load_checkpoint, save_folder, save_packed
from lacuna_ls.engine.errors import LacunaError
from lacuna_ls.engine.formats import EXACT, Scheme
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.local import LocalEngine
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.engine.packed import load_packed, quantize
from lacuna_ls.engine.packed_engine import PackedEngine, load_engine
from tiny_models import tiny_config, tiny_model

RANK = 3


def random_adapter(model: DiffusionGemma, source: Path, seed: int = 1, scale: float = 0.7) -> Adapter:
    """Of every linear layer that adapters change, large enough to change every answer."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name, p in model.named_parameters():
        if p.dim() == 2 and "router" not in name:
            N, K = p.shape
            up, down = torch.randn(N, RANK, generator=generator), torch.randn(RANK, K, generator=generator)
            # what a file keeps
            factors[name] = ((0.3 * up).half().float(), (K**-0.5 * down).half().float())
    return Adapter(fingerprint(source), factors, scale, {"files": "3"})


@pytest.fixture
def packed_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_packed(tiny_model(tiny_config()), path, {})
    return path


def test_loading_merges_the_explicit_sum(packed_file: Path) -> None:
    plain = load_checkpoint(packed_file, weights="fp32")
    adapter = random_adapter(plain, packed_file)
    adapted = load_checkpoint(packed_file, weights="fp32", adapt=adapter.merged)
    parameters = dict(adapted.named_parameters())
    for name, p in plain.named_parameters():
        wanted = p.double()
        if name in adapter.factors:
            up, down = adapter.factors[name]
            wanted = wanted + 0.7 * torch.einsum("nr,rk->nk", up.double(), down.double())
            assert not torch.equal(parameters[name], p), name
        torch.testing.assert_close(parameters[name].double(), wanted, atol=1e-5, rtol=1e-5)


def test_a_linear_layer_answers_as_with_the_two_thin_ones_beside_it(packed_file: Path) -> None:
    plain = load_checkpoint(packed_file, weights="fp32")
    adapter = random_adapter(plain, packed_file)
    adapted = load_checkpoint(packed_file, weights="fp32", adapt=adapter.merged)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(3))
    up, down = adapter.factors["layers.1.self_attn.q_proj.weight"]
    beside = plain.layers[1].self_attn.q_proj(x) + 0.7 * (x @ down.T) @ up.T
    torch.testing.assert_close(adapted.layers[1].self_attn.q_proj(x), beside, atol=1e-4, rtol=1e-4)


def test_int8_comes_after_the_sum(packed_file: Path) -> None:
    adapter = random_adapter(load_checkpoint(packed_file, weights="fp32"), packed_file)
    logits = {}
    ways = (("base", "fp32", None), ("truth", "fp32", adapter.merged), ("int8", "int8", adapter.merged))
    for name, weights, adapt in ways:
        model = load_checkpoint(packed_file, weights=weights, adapt=adapt)
        hidden = model.encode(torch.arange(3, 23), KVCache(model.config, model.device, model.dtype))
        logits[name] = model.logits(hidden)
    rounding = float((logits["int8"] - logits["truth"]).abs().mean())
    assert rounding < 0.1 * float((logits["base"] - logits["truth"]).abs().mean())
    assert LocalEngine.load(packed_file, adapter=adapter).status().model == "model.safetensors, adapted"


@pytest.mark.parametrize(
    ("scheme", "tolerance"),
    [
        # nothing is rounded: the streams of a packed model are merged exactly
        (EXACT, 1e-5),
        # int8 in groups, as the 26B model is held: rounded once more
        (Scheme(experts_group=32, dense_group=32, dtype=torch.float32), 0.05),
    ],
    ids=["exact", "int8"],
)
@pytest.mark.parametrize("is_packed", [False, True], ids=["a float folder", "our packed folder"])
def test_a_packed_model_takes_the_same_adapter(
    tmp_path: Path, scheme: Scheme, tolerance: float, is_packed: bool
) -> None:
    source = tmp_path / "float"
    save_folder(tiny_model(tiny_config()), source)
    plain = load_checkpoint(source, weights="fp32")
    if is_packed:
        quantize(source, tmp_path / "packed", scheme)
        source = tmp_path / "packed"
    adapter = random_adapter(plain, source)
    packed = load_packed(source, scheme, adapter=adapter).dequantised()
    for name, p in packed.named_parameters():
        if name in adapter.factors:
            wanted = adapter.merged(name, dict(plain.named_parameters())[name])
            assert float((p - wanted).abs().max()) <= tolerance * float(wanted.abs().max()), name


def test_the_engine_of_a_folder_takes_it(tmp_path: Path) -> None:
    source = tmp_path / "float"
    save_folder(tiny_model(tiny_config()), source)
    quantize(source, tmp_path / "packed", EXACT)
    adapter = random_adapter(load_checkpoint(source), tmp_path / "packed")
    engine = load_engine(tmp_path / "packed", adapter=adapter)
    assert isinstance(engine, PackedEngine)
    assert engine.status().model == "packed, adapted"
    engine.close()


def test_experts_of_a_packed_model_stay_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "float"
    save_folder(tiny_model(tiny_config()), source)
    adapter = Adapter(fingerprint(source), {"layers.0.experts.down_proj": (torch.ones(4, 1), torch.ones(1, 4))})
    with pytest.raises(ValueError, match="stack of packed experts"):
        load_packed(source, EXACT, adapter=adapter)


def test_a_file_comes_back_as_it_was(packed_file: Path, tmp_path: Path) -> None:
    adapter = random_adapter(load_checkpoint(packed_file, weights="fp32"), packed_file)
    path = tmp_path / "state" / "a.safetensors"
    save_adapter(adapter, path)
    again = read_adapter(path)
    assert (again.base, again.scale, again.about) == (adapter.base, adapter.scale, adapter.about)
    assert again.factors.keys() == adapter.factors.keys()
    for name, pair in adapter.factors.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, again.factors[name])), name
    assert path.stat().st_mode & 0o077 == 0
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_a_workspace_finds_its_adapter_and_loses_it(packed_file: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    (repo / "src" / "deep").mkdir(parents=True)
    adapter = random_adapter(load_checkpoint(packed_file, weights="fp32"), packed_file)
    assert find_adapter([repo], packed_file) is None
    save_adapter(adapter, adapter_file(repo))
    for workspace in (repo, str(repo), repo / "src" / ".." / "src", repo / "src" / "deep"):
        assert find_adapter([tmp_path / "other", workspace], packed_file) == adapter_file(repo)
    assert find_adapter([tmp_path], packed_file) is None
    assert forget_adapter(repo) == adapter_file(repo)
    assert forget_adapter(repo) is None
    assert find_adapter([repo], packed_file) is None


def test_a_folder_that_cannot_be_read_costs_the_adapter_only(
    packed_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "exists", refused)
    assert find_adapter([tmp_path], packed_file) is None
    assert "cannot be read (Permission denied)" in caplog.text


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def not_finite(path: Path) -> None:
    adapter = read_adapter(path)
    name = next(iter(adapter.factors))
    adapter.factors[name][0][0, 0] = float("nan")
    save_adapter(adapter, path)


def of_another_shape(path: Path) -> None:
    adapter = read_adapter(path)
    save_adapter(Adapter(adapter.base, {"norm.weight": (torch.ones(2, 1), torch.ones(1, 2))}), path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(damage, "is damaged"), (not_finite, "NaN or infinity"), (of_another_shape, "norm.weight is")],
)
def test_a_bad_file_is_refused_and_the_model_serves(packed_file, tmp_path, caplog, spoil, message) -> None:
    path = adapter_file(tmp_path)
    save_adapter(random_adapter(load_checkpoint(packed_file, weights="fp32"), packed_file), path)
    spoil(path)
    with caplog.at_level(logging.WARNING):
        assert load_adapter(path, tiny_config()) is None
    (record,) = caplog.records
    assert message in record.getMessage()
    assert "serves without it" in record.getMessage()
    forget_adapter(tmp_path)


def test_other_weights_are_refused(packed_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = random_adapter(load_checkpoint(packed_file, weights="fp32"), packed_file)
    other = tmp_path / "other.safetensors"
    save_packed(tiny_model(tiny_config(), seed=5), other, {})
    save_adapter(adapter, adapter_file(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert find_adapter([tmp_path], other) is None
    assert "other weights than those of other.safetensors; run `lacuna adapt` again" in caplog.text
    assert "serves without it" in caplog.text
    adapter_file(tmp_path).write_bytes(b"no adapter")
    assert find_adapter([tmp_path], other) is None
    assert "is not a safetensors file" in caplog.text
    forget_adapter(tmp_path)


def test_an_adapter_that_cannot_be_stored_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    (tmp_path / "folder.safetensors").mkdir()
    for path in (tmp_path / "file" / "a.safetensors", tmp_path / "folder.safetensors"):
        with pytest.raises(LacunaError, match=r"cannot be stored in .*safetensors.*make it writable"):
            save_adapter(Adapter("of some model", {}), path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.safetensors"]


def test_the_fingerprint_knows_the_weights(packed_file: Path, tmp_path: Path) -> None:
    source, other = tmp_path / "one", tmp_path / "two"
    for seed, folder in enumerate((source, other)):
        save_folder(tiny_model(tiny_config(), seed=seed), folder)
        quantize(folder, tmp_path / f"{folder.name}-packed", EXACT)
    places = [packed_file, source, other, tmp_path / "one-packed", tmp_path / "two-packed"]
    assert len({fingerprint(place) for place in places}) == 5
    save_folder(tiny_model(tiny_config()), tmp_path / "again")
    assert fingerprint(tmp_path / "again") == fingerprint(source)

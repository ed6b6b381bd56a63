"""Training on a borrowed machine, call by call: what it may import, what comes back, and that a run goes on from it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lacuna_ls.engine.checkpoint import save_packed
from lacuna_ls.engine.errors import CheckpointError, ModelNotFoundError
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.engine.modelfile import CARD_KEY, TOKENIZER_KEY, read_metadata
from lacuna_ls.infill.tokenizer import Tokenizer
from lacuna_ls.training import gpu_session, sources
from lacuna_ls.training import train as train_module
from lacuna_ls.training.batches import BatchShape
from lacuna_ls.training.export import MAX_BYTES, load_run
from lacuna_ls.training.gpu_session import (
    COMPACT,
    EXACT,
    SMALLEST,
    choose_packages,
    join_parts,
    open_run,
    portable,
    prepare_corpus,
    session,
    stop_after,
    thin,
    write_parts,
)  # fmt: skip
from lacuna_ls.training.train import SIZES, Plan, Run, initialise, read_state
from safetensors.torch import load, load_file

CPU = torch.device("cpu")
SHAPE = BatchShape(num_examples=2, num_encoder=128, num_canvases=2, num_canvas_rows=16, max_middle=24)
PLAN = Plan(size="tiny", minutes=1e9, shape=SHAPE, encoder_only_share=0.0, ema_share=1.0)

# what KINDS.md of the lent machine does not list
ABSENT = ["tree_sitter", "pygls", "lsprotocol", "datasketch", "platformdirs", "rapidfuzz"]


def test_it_needs_no_parser_no_server_and_no_directory_library() -> None:
    code = f"""
import sys
for name in {ABSENT!r}: sys.modules[name] = None
import lacuna_ls.training.gpu_session as g
from lacuna_ls.training import corpus, sources, dedupe, export
assert not [m for m in sys.modules if m.startswith(("tree_sitter_", "lacuna_ls.lsp", "lacuna_ls.bench"))]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)


def test_the_gpu_size_fits_in_the_wheel(tmp_path: Path) -> None:
    model = initialise(DiffusionGemma(SIZES["gpu"].config(4096)))
    # the embedded tokenizer takes 258 kB; card and calibration stay far under 64 kB
    out = tmp_path / "gpu.safetensors"
    save_packed(model, out, {TOKENIZER_KEY: "t" * 270_000, CARD_KEY: "c" * 64_000})
    assert 0.9 * MAX_BYTES < out.stat().st_size < MAX_BYTES
    # and what a call sends back of it: the whole of $OUT in 8 files of 16 MiB, 64 MiB together
    form, data = portable({f"model.{k}": v for k, v in model.state_dict().items()}, False, 3 * gpu_session.PART_BYTES)
    assert form == COMPACT
    assert write_parts(data, tmp_path) <= gpu_session.MAX_PARTS
    assert len(data) + out.stat().st_size < 60 * 2**20


def test_two_calls_and_a_finished_run(
    small_corpus: Path, small_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a clock that goes by looks at it: three steps to a call, however busy the machine
    ticks = itertools.count()
    monkeypatch.setattr(train_module, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 10))
    monkeypatch.setattr(gpu_session, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(gpu_session, "RESERVE_S", 0.0)
    monkeypatch.setattr(gpu_session, "PART_BYTES", 400_000)
    monkeypatch.setattr(gpu_session, "MAX_PARTS", 40)
    text = small_tokenizer.to_json()

    def call(name: str, machine: str, plan: Plan, resume: Path | None) -> dict[str, object]:
        where = (tmp_path / name, plan, 1.5, CPU, tmp_path / machine, resume, small_corpus, text)
        return session(*where)

    first = call("first", "a", PLAN, None)
    assert (first["form"], first["is_finished"]) == (EXACT, False)
    assert not (tmp_path / "first" / "embedded.safetensors").exists()
    parts = sorted((tmp_path / "first").glob("state.part-*"))
    assert len(parts) == first["num_parts"]
    assert len(parts) > 1
    assert max(path.stat().st_size for path in parts) <= 400_000
    # another machine: nothing there but the files
    second = call("second", "b", replace(PLAN, seed=5), tmp_path / "first")
    assert second["step"] > first["step"]
    assert second["plan"] == first["plan"]
    log = [json.loads(line) for line in (tmp_path / "second" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in log] == list(range(1, second["step"] + 1))
    assert set(second["held_out"]) == {"probe_encoder", "probe_canvas"}
    # the minutes are used up: the export lies there, and is the average
    last = call("last", "c", replace(PLAN, minutes=0.004), None)
    assert last["is_finished"]
    card = json.loads(read_metadata(tmp_path / "last" / "embedded.safetensors")[CARD_KEY])
    assert card["held_out"] == last["held_out"]
    join_parts(tmp_path / "last", tmp_path / "home")
    exported, joined = load_run(tmp_path / "c" / "run").state_dict(), load_run(tmp_path / "home").state_dict()
    assert all(torch.equal(value, joined[name]) for name, value in exported.items())


def stepped(out: Path, vocabulary: Tokenizer) -> Run:
    """A run after one update with made-up gradients, saved."""
    run = Run(out, PLAN, vocabulary, CPU)
    for p in run.model.parameters():
        p.grad = torch.randn_like(p)
    run.muon.step()
    run.adam.step()
    run.step, run.used_s = 1, 1.0
    run.update_ema()
    run.save()
    (out / "log.jsonl").write_text("", "utf-8")
    return run


@pytest.mark.parametrize(
    ("share", "form", "tolerance", "has_momenta"),
    [
        pytest.param(1.2, EXACT, 0.0, True, id="a small model travels whole"),
        pytest.param(0.6, COMPACT, 2**-8, True, id="first the average goes, and half of every number"),
        pytest.param(0.2, SMALLEST, 2**-8, False, id="then the momenta: the weights are what took the time"),
    ],
)
def test_a_run_goes_on_from_every_form(
    share: float, form: str, tolerance: float, has_momenta: bool, tmp_path: Path, small_tokenizer: Tokenizer
) -> None:
    run = stepped(tmp_path / "run", small_tokenizer)
    state = load_file(tmp_path / "run" / "state.safetensors")
    size = sum(t.nbytes for t in state.values())
    found, data = portable(state, False, int(share * size))
    assert found == form
    assert len(data) <= share * size
    out = tmp_path / "out"
    out.mkdir()
    for name in ("config.json", "log.jsonl"):
        (out / name).write_bytes((tmp_path / "run" / name).read_bytes())
    facts = read_state(tmp_path / "run")
    assert facts is not None
    facts |= {"form": found, "num_bytes": len(data), "num_parts": write_parts(data, out)}
    (out / "state.json").write_text(json.dumps(facts), "utf-8")
    plan = open_run(tmp_path / "again", Plan(), out)
    assert plan == PLAN
    again = Run(tmp_path / "again", plan, small_tokenizer, CPU)
    for name, tensor in run.model.state_dict().items():
        restored = again.model.state_dict()[name]
        assert restored.dtype == torch.float32
        assert (tensor - restored).abs().max() <= tolerance * tensor.abs().max(), name
    assert bool(again.muon.state) == bool(again.adam.state) == has_momenta
    for p in again.model.parameters():
        p.grad = torch.ones_like(p)
    again.muon.step()
    again.adam.step()
    assert all(bool(torch.isfinite(p).all()) for p in again.model.parameters())


def test_of_a_finished_run_the_averaged_weights_stay() -> None:
    state = {"model.w": torch.zeros(4, 4), "ema.w": torch.ones(4, 4), "opt.w.momentum_buffer": torch.zeros(4, 4)}
    form, data = portable(state, True, 10_000)
    assert form == EXACT
    assert list(load(data)) == ["model.w"]
    assert float(load(data)["model.w"].mean()) == 1.0
    with pytest.raises(ValueError, match="smaller size"):
        portable(state, True, 16)


def test_missing_files_are_told_apart(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelNotFoundError, match="--resume takes the folder"):
        open_run(tmp_path / "run", PLAN, tmp_path)
    facts = {"num_parts": 2, "num_bytes": 9}
    (tmp_path / "state.json").write_text(json.dumps(facts), "utf-8")
    (tmp_path / "state.part-0").write_bytes(b"12345")
    with pytest.raises(CheckpointError, match="5 of 9 bytes"):
        join_parts(tmp_path, tmp_path / "run")


def test_a_warm_machine_goes_on_by_itself(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    stepped(tmp_path / "run", small_tokenizer)
    assert open_run(tmp_path / "run", PLAN, None) == PLAN
    assert (tmp_path / "run" / "state.safetensors").exists()
    # another plan is another run
    other = replace(PLAN, seed=1)
    assert open_run(tmp_path / "run", other, None) == other
    assert not (tmp_path / "run").exists()


def package(root: Path, name: str, num_bytes: int) -> sources.Package:
    (root / f"{name}.py").write_text("value = 'abc'\n" * (num_bytes // 14), "utf-8")
    return sources.Package(name, "1", "MIT", "python", root, (f"{name}.py",))


def test_where_time_is_short_the_largest_go_and_the_held_out_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_session, "MIN_CORPUS_BYTES", 1000)
    found = [package(tmp_path, "big", 150_000), package(tmp_path, "small", 300), package(tmp_path, "rich", 150_000)]
    assert {p.name for p in choose_packages(found, 1e6, 4)} == {"big", "small", "rich"}
    assert capsys.readouterr().err == ""
    assert [p.name for p in choose_packages(found, 0.0, 1)] == ["small", "rich"]
    assert "left out: big\n" in capsys.readouterr().err


def test_the_corpus_is_made_of_what_is_installed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_tokenizer: Tokenizer
) -> None:
    whole = sources.standard_library()
    json_only = replace(whole, files=tuple(f for f in whole.files if f.startswith("json/")))
    csv_only = replace(whole, name="rich", files=tuple(f for f in whole.files if f in ("csv.py", "bisect.py")))

    def refuse(*_: object) -> None:
        raise AssertionError("nothing is fetched on a machine without a network")

    monkeypatch.setattr(sources, "fetch_wheels", refuse)
    monkeypatch.setattr(sources, "standard_library", lambda: json_only)
    monkeypatch.setattr(sources, "installed_packages", lambda: iter([csv_only]))
    folder = prepare_corpus(tmp_path, small_tokenizer.to_json(), 60.0, 1, {"python", "rich", "gone"})
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert {n: p["split"] for n, p in manifest["packages"].items()} == {"python": "train", "rich": "holdout"}
    assert (folder / "tokenizer.json").exists()
    monkeypatch.setattr(sources, "standard_library", refuse)
    assert prepare_corpus(tmp_path, small_tokenizer.to_json(), 60.0, 1) == folder


def test_a_call_ends_before_a_compilation_that_it_cannot_finish() -> None:
    plan = Plan(minutes=10.0, encoder_only_share=0.5)
    assert stop_after(plan, 0.0, 320.0, is_compiled=True) == 300.0
    # begins the joint phase with time to spare, or not at all
    assert stop_after(plan, 0.0, 450.0, is_compiled=True) == 450.0
    assert stop_after(plan, 0.0, 200.0, is_compiled=True) == 200.0
    # the call after that one stands just before the border, and crosses it
    assert stop_after(plan, 299.9, 90.0, is_compiled=True) == 90.0
    assert stop_after(plan, 0.0, 320.0, is_compiled=False) == 320.0


def test_a_thinned_log_keeps_its_held_out_losses_and_its_end() -> None:
    rows = [json.dumps({"step": i} | ({"probe_encoder": 1.0} if i == 77 else {})) for i in range(5000)]
    kept = [json.loads(line)["step"] for line in thin(rows, 50)]
    assert 77 in kept
    assert kept[-100:] == list(range(4900, 5000))
    assert len(kept) < 170

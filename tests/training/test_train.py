"""The trainer: the joint forward is the served model, losses fall, a run resumes exactly, an export reloads exactly."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from lacuna_ls.engine.checkpoint import load_checkpoint, save_packed
from lacuna_ls.engine.errors import ConfigError, DeviceError, ModelError, ModelNotFoundError
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.local import LocalEngine
from lacuna_ls.engine.model import DiffusionGemma, joint_layer
from lacuna_ls.engine.modelfile import CARD_KEY, read_metadata, read_tokenizer
from lacuna_ls.infill.tokenizer import Tokenizer
from lacuna_ls.training import export as export_module
from lacuna_ls.training import train as train_module
from lacuna_ls.training.batches import Batches, BatchShape, LossWeights
from lacuna_ls.training.command import first_interrupt
from lacuna_ls.training.corpus import Corpus
from lacuna_ls.training.evaluate import cases, evaluate, fit, summary
from lacuna_ls.training.export import export, load_run
from lacuna_ls.training.gpu_session import _plan_of
from lacuna_ls.training.holes import sample_hole
from lacuna_ls.training.muon import Muon, orthogonalise
from lacuna_ls.training.objective import Compiled, encoder_only, losses, row_means, soft_of
from lacuna_ls.training.train import (
    SIZES,
    STATE_KEY,
    Plan,
    Run,
    cut_log,
    initialise,
    learning_rate_scale,
    main,
    read_state,
    rounded,
    train,
)
from safetensors.torch import load_file, save_file

SHAPE = BatchShape(num_examples=3, num_encoder=128, num_canvases=2, num_canvas_rows=16, max_middle=24)
PLAN = Plan(size="tiny", minutes=1e9, shape=SHAPE, encoder_only_share=0.0, self_conditioning=0.5, warmup_steps=2)
CPU = torch.device("cpu")


def tiny(vocab_size: int) -> DiffusionGemma:
    torch.manual_seed(0)
    return initialise(DiffusionGemma(SIZES["tiny"].config(vocab_size))).eval()


def test_the_joint_forward_is_what_serving_computes(small_corpus: Path, small_tokenizer: Tokenizer) -> None:
    batches = Batches(Corpus(small_corpus), (small_corpus / "tokenizer.json").read_text("utf-8"), SHAPE, sample_hole)
    batch = batches[0]
    model = tiny(small_tokenizer.vocab_size)
    soft = soft_of(model, batch, None)
    # the training path rounds its mask's bias to bf16 (0 or -1e9), which changes no fp32 score
    with torch.no_grad():
        hidden, _ = model.joint(batch.tokens, batch.positions, batch.is_canvas, batch.mask, soft)
    n, C = SHAPE.num_encoder, SHAPE.num_canvas_rows
    for b in range(SHAPE.num_examples):
        row = batch.tokens[b, :n]
        num_text = row.tolist().index(small_tokenizer.eos, row.tolist().index(small_tokenizer.mid)) + 1
        cache = KVCache(model.config, CPU, torch.float32)
        encoded = model.encode(row[:num_text], cache)
        torch.testing.assert_close(hidden[b, :num_text], encoded, atol=1e-4, rtol=0)
        for r in range(SHAPE.num_canvases):
            rows = slice(n + r * C, n + (r + 1) * C)
            cache.truncate(0)
            model.encode(row[: int(batch.positions[b, rows][0])], cache)
            given = soft[b : b + 1, rows]
            decoded = model.decode(batch.tokens[b : b + 1, rows], cache, given)[0]
            torch.testing.assert_close(hidden[b, rows], decoded, atol=1e-4, rtol=0)


def test_the_encoder_phase_is_the_joint_phase_without_canvases(small_corpus: Path, small_tokenizer: Tokenizer) -> None:
    batch = Batches(Corpus(small_corpus), small_tokenizer.to_json(), SHAPE, sample_hole)[1]
    model = tiny(small_tokenizer.vocab_size)
    with torch.no_grad():
        both = losses(model, batch, soft_of(model, batch, None), 1.0)
        alone = losses(model, encoder_only(batch), None, 1.0)
    torch.testing.assert_close(both.encoder, alone.encoder, atol=1e-4, rtol=0)
    assert float(alone.canvas) == 0.0


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (3, 16, 16)], ids=["wide", "tall", "a stack of experts"])
def test_orthogonalise_flattens_the_singular_values(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result.float())
    assert float(values.min()) > 0.4
    assert float(values.max()) < 1.4
    # same singular vectors: the update points where the truth, U V^T, points
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    cosine = torch.nn.functional.cosine_similarity(result.flatten(), (u @ v).flatten(), dim=0)
    assert cosine > 0.9


def test_muon_moves_a_matrix_downhill() -> None:
    torch.manual_seed(2)
    weight = torch.nn.Parameter(torch.randn(8, 12))
    target = torch.randn(8, 12)
    optimiser = Muon([weight], lr=0.1)
    before = float((weight.detach() - target).square().sum())
    for _ in range(60):
        optimiser.zero_grad()
        (weight - target).square().sum().backward()
        optimiser.step()
    assert float((weight.detach() - target).square().sum()) < 0.2 * before


def test_the_learning_rate_warms_up_and_cools_down() -> None:
    plan = replace(PLAN, warmup_steps=10, cooldown_share=0.5)
    assert learning_rate_scale(plan, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate_scale(plan, 50, 0.4) == 1.0
    assert learning_rate_scale(plan, 50, 0.75) == pytest.approx(0.5)
    assert learning_rate_scale(plan, 50, 1.0) == pytest.approx(0.02)


def test_the_last_part_trains_the_weights_that_are_exported(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    model = tiny(small_tokenizer.vocab_size)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_packed(model, tmp_path / "packed.safetensors", {})
    exported = load_checkpoint(tmp_path / "packed.safetensors", weights="fp32").state_dict()
    with rounded(model):
        assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
        for name, p in model.named_parameters():
            assert torch.equal(p, exported[name]), name
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


class _StopError(Exception):
    """Ends a run after a number of steps, as a cut session does."""


def run_steps(corpus: Path, out: Path, num_steps: int, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Train until `num_steps` more steps are done, then save as the trainer does at its end."""
    from lacuna_ls.training import train as module

    done = 0
    original = module.one_step

    def counted(*args: object) -> object:
        nonlocal done
        if done == num_steps:
            raise _StopError
        done += 1
        return original(*args)  # type: ignore[arg-type]

    kept: list[Run] = []
    build = module.Run

    def remembered(*args: object) -> Run:
        kept.append(build(*args))  # type: ignore[arg-type]
        return kept[-1]

    with monkeypatch.context() as patch:
        patch.setattr(module, "one_step", counted)
        patch.setattr(module, "Run", remembered)
        with pytest.raises(_StopError):
            train(corpus, out, PLAN, CPU, num_workers=0, is_compiled=False)
    kept[0].save()
    return kept[0]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_run_resumes_exactly(small_corpus: Path, tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_steps(small_corpus, tmp_path / "whole", 6, monkeypatch)
    run_steps(small_corpus, tmp_path / "halves", cut, monkeypatch)
    halves = run_steps(small_corpus, tmp_path / "halves", 6 - cut, monkeypatch)
    assert (whole.step, halves.step) == (6, 6)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, halves.model.state_dict()[name]), name
    log = [json.loads(line) for line in (tmp_path / "halves" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert log[-1]["encoder"] < log[0]["encoder"]


def steps_logged(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


def test_a_save_that_is_cut_leaves_the_one_before(
    small_corpus: Path, small_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_steps(small_corpus, tmp_path, 2, monkeypatch)
    before = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}

    def cut(*_: object) -> None:
        raise OSError("cut between two files")

    first.step = 3
    for tensor in first.model.state_dict().values():
        tensor.add_(1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut)
        with pytest.raises(OSError, match="cut between"):
            first.save()
    again = Run(tmp_path, PLAN, small_tokenizer, CPU)
    assert again.step == 2
    assert all(torch.equal(value, before[name]) for name, value in again.model.state_dict().items())
    # nothing but the one file tells of the step
    assert sorted(path.name for path in tmp_path.glob("state*")) == ["state.part", "state.safetensors"]


def test_a_run_of_an_older_version_goes_on(
    small_corpus: Path, small_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_steps(small_corpus, tmp_path, 2, monkeypatch)
    state = read_state(tmp_path)
    assert state is not None
    tensors = load_file(tmp_path / "state.safetensors")
    # as it was: two files
    save_file(tensors, tmp_path / "state.safetensors")
    (tmp_path / "state.json").write_text(json.dumps(state), "utf-8")
    assert STATE_KEY not in read_metadata(tmp_path / "state.safetensors")
    again = Run(tmp_path, PLAN, small_tokenizer, CPU)
    assert (again.step, again.num_tokens) == (2, state["num_tokens"])
    again.save()
    assert read_state(tmp_path) == {**state, "plan": asdict(PLAN)}
    assert not (tmp_path / "state.json").exists()
    assert read_state(tmp_path / "nowhere") is None


def test_steps_that_are_done_again_are_logged_once(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_steps(small_corpus, tmp_path, 2, monkeypatch)
    kept = (tmp_path / "state.safetensors").read_bytes()
    run_steps(small_corpus, tmp_path, 3, monkeypatch)
    assert steps_logged(tmp_path) == [1, 2, 3, 4, 5]
    # killed: the last state on disk is of step 2, and the last line is half written
    (tmp_path / "state.safetensors").write_bytes(kept)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "prog')
    run_steps(small_corpus, tmp_path, 2, monkeypatch)
    assert steps_logged(tmp_path) == [1, 2, 3, 4]
    cut_log(tmp_path / "gone.jsonl", 3)
    assert not (tmp_path / "gone.jsonl").exists()


def test_ctrl_c_ends_after_the_step_and_says_how_to_go_on(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_steps(small_corpus, tmp_path / "whole", 4, monkeypatch)
    original = train_module.one_step
    handler = signal.getsignal(signal.SIGINT)

    def pressed(run: Run, *rest: object) -> object:
        if run.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(run, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "one_step", pressed)
        with pytest.raises(KeyboardInterrupt):
            train(small_corpus, tmp_path / "run", PLAN, CPU, num_workers=0, is_compiled=False)
    told = capsys.readouterr().err
    assert f"{tmp_path / 'run'} is saved at step 2, and the same command goes on from there\n" in told
    state = read_state(tmp_path / "run")
    assert state is not None
    assert state["step"] == 2
    assert signal.getsignal(signal.SIGINT) is handler
    halves = run_steps(small_corpus, tmp_path / "run", 2, monkeypatch)
    assert steps_logged(tmp_path / "run") == [1, 2, 3, 4]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, halves.model.state_dict()[name]), name


def test_a_second_ctrl_c_ends_at_once() -> None:
    with first_interrupt() as is_interrupted:
        assert not is_interrupted()
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert is_interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_export_reloads_and_says_what_it_is(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_steps(small_corpus, tmp_path / "run", 2, monkeypatch)
    out = tmp_path / "packed.safetensors"
    size = export(tmp_path / "run", small_corpus / "tokenizer.json", out, {"corpus": "json"})
    assert size == out.stat().st_size
    assert json.loads(read_metadata(out)[CARD_KEY]) == {"corpus": "json"}
    assert read_tokenizer(out) == (small_corpus / "tokenizer.json").read_text("utf-8")
    trained, packed = load_run(tmp_path / "run").state_dict(), load_checkpoint(out, weights="fp32").state_dict()
    assert trained.keys() == packed.keys()
    for name, tensor in trained.items():
        # int8 with a scale per row: half a step of the largest entry, at most
        assert (tensor - packed[name]).abs().max() <= tensor.abs().max() / 254 + 1e-7, name
    again = load_checkpoint(out, weights="fp32").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in packed.items())
    monkeypatch.setattr(export_module, "MAX_BYTES", size // 2)
    with pytest.raises(ModelError, match="over the limit"):
        export(tmp_path / "run", small_corpus / "tokenizer.json", tmp_path / "big.safetensors", {})
    assert not list(tmp_path.glob("big*"))


def test_a_model_is_evaluated_as_served(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_steps(small_corpus, tmp_path / "run", 2, monkeypatch)
    model = tmp_path / "packed.safetensors"
    export(tmp_path / "run", small_corpus / "tokenizer.json", model, {})
    todo = cases(Corpus(small_corpus, "holdout"), 2, 0)
    outcomes = evaluate(model, todo, ("verify", "autoregressive"))
    assert {len(rows) for rows in outcomes.values()} == {10}
    exact = {d: [o.is_exact for o in rows] for d, rows in outcomes.items()}
    assert exact["verify"] == exact["autoregressive"]
    assert summary(outcomes["verify"])["holes"] == 10
    asked: list[str] = []
    load = LocalEngine.load
    monkeypatch.setattr(LocalEngine, "load", lambda path, weights: asked.append(weights) or load(path, weights=weights))
    truth = evaluate(model, todo, ("verify",), weights="fp32")["verify"]
    assert asked == ["fp32"]
    assert [o.kind for o in truth] == [o.kind for o in outcomes["verify"]]
    # the small corpus has none of the packages that calibrations are fitted on
    assert all(o.half == "judge" for o in outcomes["verify"])
    # ten holes are too few for any curve: the joint probability stands for itself
    assert fit(outcomes).curves == {}


def test_a_run_of_steps_does_the_same_work_however_long_it_takes(small_corpus: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, minutes=0.0, num_steps=4, weights=LossWeights(middle=1.0), size=SIZES["tiny"])
    run = train(small_corpus, tmp_path, plan, CPU, num_workers=0, is_compiled=False)
    assert (run.step, run.progress) == (4, 1.0)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    assert [row["progress"] for row in log] == [0.25, 0.5, 0.75, 1.0]
    # work over time, of every row by itself
    assert all(row["tflops"] > 0 for row in log)
    seconds = [b["used_s"] - a["used_s"] for a, b in zip([{"used_s": 0.0}, *log], log, strict=False)]
    assert len({round(row["tflops"] * s * 1e12) for row, s in zip(log[1:], seconds[1:], strict=True)}) <= 2
    stored = read_state(tmp_path)
    assert stored is not None
    assert _plan_of(stored) == plan
    # a run from before these fields existed is read with what was meant then
    del stored["plan"]["num_steps"], stored["plan"]["weights"]
    assert _plan_of(stored) == replace(plan, num_steps=0, weights=LossWeights())


def test_training_without_a_corpus_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"training\.corpus --out"):
        train(tmp_path, tmp_path / "run", PLAN, CPU)
    assert not (tmp_path / "run").exists()
    # a tokenizer alone is no corpus
    (tmp_path / "tokenizer.json").write_text("{}", "utf-8")
    with pytest.raises(ModelNotFoundError, match=r"train\.idx\.npy does not exist.*training\.corpus --out"):
        main(["--corpus", str(tmp_path), "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(ModelNotFoundError, match="train first"):
        load_run(tmp_path)


# dynamo looks at .grad of what is no leaf, and says so itself
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_layers_compiled_one_by_one_are_the_step_and_are_compiled_once_a_kind(
    small_corpus: Path, small_tokenizer: Tokenizer
) -> None:
    batch = Batches(Corpus(small_corpus), small_tokenizer.to_json(), SHAPE, sample_hole)[2]
    torch.manual_seed(0)
    size = replace(SIZES["tiny"], num_layers=4)
    model = initialise(DiffusionGemma(size.config(small_tokenizer.vocab_size)))
    num_graphs = 0

    def count(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        nonlocal num_graphs
        num_graphs += 1
        return graph

    parts = Compiled(
        torch.compile(joint_layer, dynamic=False, backend=count), torch.compile(row_means, dynamic=False, backend=count)
    )
    soft = soft_of(model, batch, None)
    for _ in range(2):
        fast, plain = losses(model, batch, soft, 1.0, parts), losses(model, batch, soft, 1.0)
        torch.testing.assert_close(fast.total, plain.total)
    # sliding layers share one, the full one has its own, and the loss
    assert num_graphs == 3


def test_a_run_starts_from_an_exported_model_of_its_shape_only(
    small_corpus: Path, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    start = tiny(small_tokenizer.vocab_size)
    save_packed(start, tmp_path / "start.safetensors", {})
    run = Run(tmp_path / "run", PLAN, small_tokenizer, CPU, tmp_path / "start.safetensors")
    exported = load_checkpoint(tmp_path / "start.safetensors", weights="fp32").state_dict()
    assert all(torch.equal(value, exported[name]) for name, value in run.model.state_dict().items())
    other = replace(PLAN, size=replace(SIZES["tiny"], num_layers=3))
    with pytest.raises(ConfigError, match="another shape"):
        Run(tmp_path / "other", other, small_tokenizer, CPU, tmp_path / "start.safetensors")


def test_numbers_that_make_no_sense_are_asked_wrongly(tmp_path: Path) -> None:
    words = ["--corpus", str(tmp_path), "--out", str(tmp_path / "run")]
    for wrong in (["--minutes", "0"], ["--minutes", "nan"], ["--batch", "0"], ["--threads", "-1"], ["--steps", "-1"]):
        with pytest.raises(SystemExit):
            train_module.main([*words, *wrong])
    with pytest.raises(DeviceError, match="choose cpu or cuda"):
        train_module.main([*words, "--device", "foo"])

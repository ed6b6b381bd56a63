"""`lacuna adapt`: reads what it may, learns what repeats, serves what it learnt, and takes it back without a trace."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chat_tokenizer import chat_backend
from lacuna_ls.engine.adapter import Adapter, read_adapter
from lacuna_ls.engine.adapter_file import adapter_file, find_adapter, fingerprint
from lacuna_ls.engine.checkpoint import load_checkpoint, save_folder, save_packed
from lacuna_ls.engine.config import LayerSpec, ModelConfig
from lacuna_ls.engine.errors import LacunaError
from lacuna_ls.engine.formats import Scheme
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.engine.modelfile import TOKENIZER_KEY
from lacuna_ls.engine.packed import quantize
from lacuna_ls.engine.problem import NOISE, Canvas, CanvasProblem
from lacuna_ls.infill.load import load_tokenizer
from lacuna_ls.infill.tokenizer import Tokenizer
from lacuna_ls.training import adapt as module
from lacuna_ls.training import adapt_train
from lacuna_ls.training.adapt import BUSY, Bars, main, read_repository, split
from lacuna_ls.training.adapt_score import Score, load_engine
from lacuna_ls.training.adapt_train import HeldOutLoss, Plan, held_out_loss, load_base, of_chat, train
from lacuna_ls.training.batches import Batches, BatchShape, LossWeights
from lacuna_ls.training.command import first_interrupt
from lacuna_ls.training.holes import sample_hole
from lacuna_ls.training.lora import LowRankLinear, attach, factors
from lacuna_ls.training.objective import losses, soft_of
from lacuna_ls.training.train import SIZES, initialise
from rich.console import Console

SHAPE = BatchShape(num_examples=4, num_encoder=128, num_canvases=1, num_canvas_rows=16, max_middle=24)
# a tiny model with nothing to lose: large steps, so that few are enough
PLAN = Plan(minutes=5.0, max_steps=40, rank=8, lr=0.04, shape=SHAPE, num_probes=4, num_probe_batches=2)


@pytest.fixture(autouse=True)
def _one_thread():
    """Two threads on busy cores wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve modules that all say the same with other names."""
    folder = tmp_path_factory.mktemp("repo")
    (folder / "src").mkdir()
    names = "anchor basket candle dragon ember forest garden harbour island jungle kettle lantern"
    for i, name in enumerate(names.split()):
        lines = [f'"""Everything about one {name}."""\n\nimport json\nfrom dataclasses import dataclass\n\n']
        for field in ("size", "colour", "weight", "origin", "owner", "price")[: 4 + i % 3]:
            lines.append(
                f"\ndef read_{name}_{field}(path):\n    with open(path, encoding='utf-8') as stream:\n"
                f"        {name} = json.load(stream)\n    if '{field}' not in {name}:\n"
                f"        raise ValueError(f'{{path}} has no {field}')\n    return {name}['{field}']\n\n"
            )
        (folder / "src" / f"{name}.py").write_text("".join(lines), "utf-8")
    return folder


# what is read


def test_what_must_not_be_read_is_not_read(tmp_path: Path) -> None:
    files = {
        "a.py": "key = 'x'\npassword = 'hunter2hunter2'\n",
        "b.py": "x = 1\n",
        "secrets.py": "x = 2\n",
        "generated/c.py": "x = 3\n",
        "node_modules/d.js": "let x\n",
        ".hidden/e.py": "x = 4\n",
        "private/f.py": "x = 5\n",
        "notes.txt": "x\n",
        ".gitignore": "generated/\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    found = dict(read_repository(tmp_path, ["private/"]))
    assert sorted(found) == ["a.py", "b.py"]
    assert "hunter2" not in found["a.py"]
    with pytest.raises(LacunaError, match="not a folder"):
        read_repository(tmp_path / "a.py")


def test_whole_files_are_held_out_and_their_copies_left_out() -> None:
    texts = [(f"{i}.py", "".join(f"name_{i}_{j} = call_{i}({j})\n" for j in range(60))) for i in range(10)]
    own, held_out = split(texts)
    names = {file["package"] for file in own.files()}, {file["package"] for file in held_out.files()}
    assert not names[0] & names[1]
    assert len(own) + len(held_out) == 10
    assert 0.15 < held_out.num_chars / (own.num_chars + held_out.num_chars) < 0.4
    kept = held_out.files()[0]["package"]
    copy = ("copy.py", dict(texts)[kept] + "last = 1\n")
    with_copy = split([*texts, copy])
    parts = [{file["package"] for file in part.files()} for part in with_copy]
    assert not ({kept} <= parts[1] and "copy.py" in parts[0])
    with pytest.raises(LacunaError, match="too little to learn from"):
        split(texts[:1])


# what is trained


@pytest.mark.parametrize("seed", range(6))
def test_one_large_file_is_learnt_from(seed: int) -> None:
    lines = [f"value_{i} = compute_{i * 7}(first_{i}, second_{i % 13})\n" for i in range(4000)]
    small = [(f"s{k}.py", "".join(lines[300 * k : 300 * k + 200])) for k in range(5)]
    own, held_out = split([("large.py", "".join(lines[1500:])), *small], seed)
    assert "large.py" in {each["package"] for each in own.files()}
    assert len(held_out) > 0
    assert held_out.num_chars < own.num_chars


def test_a_repository_of_copies_is_too_little() -> None:
    text = "".join(f"def read_{i}(path):\n    return open(path).read() + str({i})\n\n" for i in range(120))
    with pytest.raises(LacunaError, match="no near-copies"):
        split([(f"copy{k}.py", f"{text}x = {k}\n") for k in range(4)])


def test_nothing_changes_before_the_first_step(small_tokenizer: Tokenizer, repo: Path) -> None:
    model = initialise(DiffusionGemma(SIZES["tiny"].config(small_tokenizer.vocab_size))).eval()
    own, _ = split(read_repository(repo))
    batch = Batches(own, small_tokenizer.to_json(), SHAPE, sample_hole)[0]
    with torch.no_grad():
        before = losses(model, batch, soft_of(model, batch, None), 1.0)
        attached = attach(model, 4)
        after = losses(model, batch, soft_of(model, batch, None), 1.0)
    torch.testing.assert_close(before.total, after.total, atol=1e-5, rtol=0)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names == {f"{name.removesuffix('.weight')}.{leaf}" for name in attached for leaf in ("up", "down")}
    assert not any("router" in name or "experts" in name for name in names)


def test_merging_gives_what_was_trained(model_file: Path, small_tokenizer: Tokenizer, repo: Path) -> None:
    model = load_checkpoint(model_file, weights="fp32")
    attached = attach(model, 3)
    generator = torch.Generator().manual_seed(2)
    for low in attached.values():
        low.up.data = 0.2 * torch.randn(low.up.shape, generator=generator)
    adapter = Adapter(fingerprint(model_file), factors(attached))
    merged = load_checkpoint(model_file, weights="fp32", adapt=adapter.merged)
    batch = Batches(split(read_repository(repo))[0], small_tokenizer.to_json(), SHAPE, sample_hole)[3]
    with torch.no_grad():
        wanted, got = (losses(each, batch, soft_of(each, batch, None), 1.0) for each in (model, merged))
    torch.testing.assert_close(got.encoder, wanted.encoder, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.canvas, wanted.canvas, atol=1e-4, rtol=1e-4)


def full_size(vocab_size: int) -> ModelConfig:
    """The released model's architecture, tiny: both kinds of attention, no value projection in one, many experts."""
    sliding = LayerSpec("sliding_attention", 16, 2, 256, 1e4, 8, True)
    full = LayerSpec("full_attention", 32, 1, None, 1e6, 4, False)
    return ModelConfig(
        vocab_size=vocab_size, hidden_size=64, intermediate_size=96, num_heads=4, layers=(sliding, full),
        num_experts=16, top_k=2, expert_size=32, rms_norm_eps=1e-6, softcap=30.0, max_positions=2048, pad_id=0,
        bos_id=2, eos_ids=(1,), canvas_length=16, first_noise_id=16,
    )  # fmt: skip


@pytest.mark.parametrize("is_packed", [False, True], ids=["a float folder", "a packed folder"])
def test_the_full_size_architecture_learns_and_serves(
    tmp_path: Path, small_tokenizer: Tokenizer, repo: Path, is_packed: bool
) -> None:
    torch.manual_seed(1)
    source = tmp_path / "float"
    model = initialise(DiffusionGemma(full_size(small_tokenizer.vocab_size)))
    save_folder(model, source, small_tokenizer.to_json())
    if is_packed:
        quantize(source, tmp_path / "packed", Scheme(dense_group=32, experts_group=32, dtype=torch.float32))
        source = tmp_path / "packed"
    base = load_base(source, "cpu")
    own, held_out = split(read_repository(repo))
    plan = replace(PLAN, max_steps=25)
    result = train(base, small_tokenizer.to_json(), own, held_out, plan)
    assert result.gain > 0.3
    # layer 1 attends fully and has no value projection
    assert "layers.0.self_attn.v_proj.weight" in result.factors
    assert "layers.1.self_attn.v_proj.weight" not in result.factors
    assert isinstance(base.layers[1].self_attn.k_proj, LowRankLinear)
    adapter = Adapter(fingerprint(source), result.factors)
    engine, adapted = (load_engine(source, "cpu", adapter=each) for each in (None, adapter))
    prompt = tuple(small_tokenizer.encode("import json\n"))
    problem = CanvasProblem(prompt, (Canvas((NOISE,) * 8, (False,) * 8),), 4, None, 0, "autoregressive")
    (before,), (after,) = engine.fill(problem), adapted.fill(problem)
    assert after.logprob != before.logprob


def test_a_batch_beyond_the_window_is_our_own_mistake(small_tokenizer: Tokenizer, repo: Path) -> None:
    model = initialise(DiffusionGemma(full_size(small_tokenizer.vocab_size)))
    own, held_out = split(read_repository(repo))
    with pytest.raises(ValueError, match="sliding window of 256"):
        train(model, small_tokenizer.to_json(), own, held_out, replace(PLAN, shape=BatchShape()))


def test_the_loss_that_is_looked_at_is_of_what_is_asked_for(
    small_tokenizer: Tokenizer, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the truth beside it is in fp32
    monkeypatch.setattr(adapt_train, "has_bf16_products", lambda: False)
    model = initialise(DiffusionGemma(SIZES["tiny"].config(small_tokenizer.vocab_size))).eval()
    own, _ = split(read_repository(repo))
    text = small_tokenizer.to_json()
    num = 3
    probes = [Batches(own, text, SHAPE, sample_hole, 5, adapt_train.PROBE_WEIGHTS)[i] for i in range(num)]
    found = held_out_loss(model, probes)

    def by_hand(weights: LossWeights, *, is_canvas: bool) -> float:
        total = share = 0.0
        for i in range(num):
            batch = Batches(own, text, SHAPE, sample_hole, 5, weights)[i]
            assert torch.equal(batch.tokens, probes[i].tokens)
            with torch.no_grad():
                each = losses(model, batch, soft_of(model, batch, None), 1.0)
            rows = float(batch.weights[:, batch.is_canvas == is_canvas].sum())
            total += rows * float(each.canvas if is_canvas else each.encoder)
            share += rows
        return total / share

    assert found.middle == pytest.approx(by_hand(LossWeights(context=0.0), is_canvas=False), abs=1e-5)
    assert found.context == pytest.approx(by_hand(LossWeights(middle=0.0), is_canvas=False), abs=1e-5)
    assert found.canvas == pytest.approx(by_hand(LossWeights(), is_canvas=True), abs=1e-5)
    assert HeldOutLoss(1.0, 4.0, 9.0).asked_for(5.0) == pytest.approx(1.5)


def test_training_stops_by_what_is_asked_for(
    small_tokenizer: Tokenizer, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = initialise(DiffusionGemma(SIZES["tiny"].config(small_tokenizer.vocab_size)))
    own, held_out = split(read_repository(repo))
    # the context falls at every look, what is asked for only at the second
    looks = iter(HeldOutLoss(middle, 4.0, 8.0 - i) for i, middle in enumerate((3.0, 3.1, 2.9, 3.0, 3.1, 3.2)))
    kept = []

    def look(*_: object) -> HeldOutLoss:
        kept.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
        return next(looks)

    monkeypatch.setattr(adapt_train, "held_out_loss", look)
    plan = replace(PLAN, max_steps=16, num_probes=8)
    result = train(model, small_tokenizer.to_json(), own, held_out, plan)
    assert (result.before.middle, result.after.middle) == (3.0, 2.9)
    assert result.steps == 10
    for ours, theirs in zip((f for pair in result.factors.values() for f in pair), kept[2], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_files_stay_held_out_when_others_come() -> None:
    texts = [(f"{i}.py", "".join(f"name_{i}_{j} = call_{i}({j})\n" for j in range(60))) for i in range(30)]
    for num_then in (15, 28):
        (learnt, held_then), (_, held_now) = split(texts[:num_then]), split(texts)
        # but for one or two at the edge of the share
        assert len(set(learnt.paths) & set(held_now.paths)) <= 1
        assert len(set(held_then.paths) & set(held_now.paths)) >= 2
    assert set(split(texts, 1)[1].paths) != set(held_now.paths)


# the whole command


def test_the_command_learns_keeps_and_forgets(
    repo: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "Plan", lambda **given: replace(PLAN, **given))
    figures = tmp_path / "figures.json"
    words = [str(repo), "--model", str(model_file), "--rank", "8", "--steps", "40", "--holes", "6"]
    untouched = model_file.read_bytes()
    assert main([*words, "--json", str(figures)]) == 0
    printed = capsys.readouterr().out
    assert "loss of what is asked for" in printed
    assert "there now" not in printed
    assert "exact %, as served, all" in printed
    told = json.loads(figures.read_text("utf-8"))
    assert told["losses"]["after"]["middle"] < told["losses"]["before"]["middle"] - 0.3
    assert told["losses"]["after"]["context"] < told["losses"]["before"]["context"] - 0.3
    assert 0 < told["bytes"] == adapter_file(repo).stat().st_size
    assert told["scores"]["before"]["num_holes"] == 6
    assert told["changes"]["the model as it is"]["num_holes"] == 6
    assert model_file.read_bytes() == untouched
    assert find_adapter([repo / "src"], model_file) == adapter_file(repo)
    adapter = read_adapter(adapter_file(repo))
    assert adapter.about["files"] == "9"

    problem = CanvasProblem((3, 4, 20, 21, 5), (Canvas((NOISE,) * 8, (False,) * 8),), 4, None, 0, "autoregressive")
    base, adapted = (load_engine(model_file, "cpu", adapter=each) for each in (None, adapter))
    (wanted,), (changed,) = base.fill(problem), adapted.fill(problem)
    assert changed.logprob != wanted.logprob

    assert main([str(repo), "--remove"]) == 0
    assert "removed" in capsys.readouterr().out
    assert find_adapter([repo], model_file) is None
    (again,) = load_engine(model_file, "cpu").fill(problem)
    assert (again.tokens, again.logprob) == (wanted.tokens, wanted.logprob)
    assert main([str(repo), "--remove"]) == 0
    assert "has no adapter" in capsys.readouterr().out


def test_a_model_that_is_asked_in_turns_learns_from_turns(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    backend = chat_backend()
    small = full_size(backend.get_vocab_size())
    # turns take some hundred rows with so small a vocabulary
    layers = (replace(small.layers[0], window=2048), small.layers[1])
    ends = tuple(backend.token_to_id(name) for name in ("<eos>", "<turn|>", "<|tool_response>"))
    model = initialise(DiffusionGemma(replace(small, layers=layers, eos_ids=ends, first_noise_id=0)))
    save_folder(model, tmp_path / "float", backend.to_str())
    packed = tmp_path / "packed"
    quantize(tmp_path / "float", packed, Scheme(dense_group=32, experts_group=32, dtype=torch.float32))
    shape = BatchShape(num_examples=2, num_encoder=900, num_canvases=1, num_canvas_rows=16, max_middle=40)
    monkeypatch.setattr(adapt_train, "CHAT_SHAPE", shape)
    monkeypatch.setattr(module, "Plan", lambda **given: replace(PLAN, lr=0.04, **given))
    figures = tmp_path / "figures.json"
    words = [str(repo), "--model", str(packed), "--steps", "12", "--holes", "3", "--json", str(figures)]
    assert main(words) == 0
    assert "exact %, as served, all" in capsys.readouterr().out
    losses_of = json.loads(figures.read_text("utf-8"))["losses"]
    before, after = (HeldOutLoss(**losses_of[name]) for name in ("before", "after"))
    assert after.asked_for(1.0) < before.asked_for(1.0) - 0.15
    assert find_adapter([repo], packed) == adapter_file(repo)
    assert main([str(repo), "--remove"]) == 0
    assert find_adapter([repo], packed) is None


def test_the_full_size_plan_stays_within_the_window_and_the_published_recipe() -> None:
    plan = of_chat(Plan())
    assert plan.shape.num_rows <= 1024
    assert (plan.encoder_weight, plan.rank, plan.lr) == (1.0, 16, 2e-4)
    assert of_chat(Plan(lr=1e-3)).lr == 1e-3


def scores_of(*served: str) -> Callable[..., Score]:
    """Stands for `score`: one score a call, a letter for each hole, x where it is filled exactly."""
    waiting = iter(served)

    def score(*_: object) -> Score:
        hits = tuple(letter == "x" for letter in next(waiting))
        return Score(("line",) * len(hits), hits, hits)

    return score


def test_what_fills_fewer_holes_is_not_kept_though_its_loss_is_lower(
    repo: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "Plan", lambda **given: replace(PLAN, **given))
    words = [str(repo), "--model", str(model_file), "--rank", "8", "--steps", "40", "--holes", "6"]
    monkeypatch.setattr(module, "score", scores_of("xxxxx-", "x----x"))
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "of 6 holes, against the model as it is: 1 more exact, 4 no longer" in printed
    assert "it does worse on the held-out files than the model as it is, so nothing new is kept" in printed
    assert not adapter_file(repo).exists()
    # as many as chance may take are no reason, and no difference either
    monkeypatch.setattr(module, "score", scores_of("xxxxx-", "xxxx-x"))
    assert main(words) == 0
    assert "differs by no more than chance" in capsys.readouterr().out
    assert adapter_file(repo).exists()
    assert main([str(repo), "--remove"]) == 0


def test_the_adapter_that_is_there_is_measured_and_stays_where_the_new_one_is_worse(
    repo: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "Plan", lambda **given: replace(PLAN, **given))
    words = [str(repo), "--model", str(model_file), "--rank", "8", "--holes", "6", "--steps"]
    monkeypatch.setattr(module, "score", scores_of("------", "xxx---"))
    assert main([*words, "40"]) == 0
    capsys.readouterr()
    first = adapter_file(repo).read_bytes()

    # fewer holes than the adapter there now, more than the model as it is
    monkeypatch.setattr(module, "score", scores_of("------", "xxx---", "--x---"))
    figures = tmp_path / "figures.json"
    assert main([*words, "40", "--json", str(figures)]) == 1
    printed = capsys.readouterr().out
    assert "there now" in printed
    assert "of 6 holes, against the adapter that was there: 0 more exact, 2 no longer" in printed
    assert "worse on the held-out files than the adapter that is there, so nothing new is kept" in printed
    assert "the adapter that was there stays" in printed
    assert adapter_file(repo).read_bytes() == first
    # its loss is that of its last look, but for what fp16 rounds
    losses_of = json.loads(figures.read_text("utf-8"))["losses"]
    assert losses_of["there"] == pytest.approx(losses_of["after"], abs=2e-3)
    assert losses_of["there"]["middle"] < losses_of["before"]["middle"] - 0.3

    # as many holes: the loss decides, which few steps lower less
    monkeypatch.setattr(module, "score", scores_of("------", "xxx---", "xxx---"))
    assert main([*words, "12"]) == 1
    assert "worse on the held-out files than the adapter that is there" in capsys.readouterr().out
    assert adapter_file(repo).read_bytes() == first

    # one that may have learnt what is held out now is shown, and no more
    monkeypatch.setattr(module, "score", scores_of("------", "xxx---", "--x---"))
    assert main([*words, "40", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert "may have learnt from some of the held-out files" in printed
    assert "in place of the one that was there" in printed
    assert adapter_file(repo).read_bytes() != first

    # one of another model is no adapter of this one
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    tokenizer_json = load_tokenizer(model_file).to_json()
    config = load_checkpoint(model_file).config
    save_packed(initialise(DiffusionGemma(config)), other, {TOKENIZER_KEY: tokenizer_json})
    assert main([str(repo), "--model", str(other), "--rank", "8", "--holes", "0", "--steps", "40"]) == 0
    captured = capsys.readouterr()
    assert "made for another model" in captured.err
    assert "there now" not in captured.out
    assert main([str(repo), "--remove"]) == 0


def test_holes_are_filled_with_the_other_files_indexed_and_never_with_held_out_ones(
    repo: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Plan", lambda **given: replace(PLAN, **given))
    own, held_out = split(read_repository(repo))
    indexes = []

    def score(source, device, adapter, todo, index, told):
        indexes.append(index)
        return Score(("line",), (False,), (False,))

    monkeypatch.setattr(module, "score", score)
    assert main([str(repo), "--model", str(model_file), "--rank", "8", "--steps", "40", "--holes", "6"]) == 0
    assert main([str(repo), "--remove"]) == 0
    assert len(indexes) == 2
    for index in indexes:
        assert all(path in index for path in own.paths)
        assert not any(path in index for path in held_out.paths)


def interrupting(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Ctrl-C during these steps of the training."""
    real, num_done = adapt_train.one_step, 0

    def one_step(*args: object) -> None:
        nonlocal num_done
        real(*args)
        num_done += 1
        if num_done in steps:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(adapt_train, "one_step", one_step)


def test_ctrl_c_ends_the_training_and_keeps_what_was_learnt(
    repo: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # no look before the end, so the last one is due to the interruption
    monkeypatch.setattr(module, "Plan", lambda **given: replace(PLAN, num_probes=1, **given))
    figures = tmp_path / "figures.json"
    words = [str(repo), "--model", str(model_file), "--rank", "8", "--steps", "40", "--holes", "3"]
    interrupting(monkeypatch, 25)
    before = signal.getsignal(signal.SIGINT)
    assert main([*words, "--json", str(figures)]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    captured = capsys.readouterr()
    assert "stopping; what was learnt so far is measured next" in captured.err
    assert "25 steps" in captured.out
    assert "then stopped" in captured.out
    told = json.loads(figures.read_text("utf-8"))
    assert told["is_stopped"] is True
    assert told["losses"]["after"]["middle"] < told["losses"]["before"]["middle"] - 0.3
    first = adapter_file(repo).read_bytes()
    # adapters of other tests may lie there, too
    kept = sorted(adapter_file(repo).parent.iterdir())
    assert {path.suffix for path in kept} == {".safetensors"}

    # a second one ends it at once, and changes nothing
    monkeypatch.undo()
    monkeypatch.setattr(module, "Plan", lambda **given: replace(PLAN, **given))
    monkeypatch.setattr(module, "score", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(words) == 130
    assert "stopped; nothing new is kept; the adapter that was there stays" in capsys.readouterr().out
    assert adapter_file(repo).read_bytes() == first
    assert sorted(adapter_file(repo).parent.iterdir()) == kept
    assert main([str(repo), "--remove"]) == 0


def test_the_second_interruption_is_an_exception() -> None:
    said = []
    with first_interrupt(lambda: said.append("stopping")) as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert [stopped(), stopped()] == [True, True]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert said == ["stopping"]


def test_what_goes_on_is_shown_in_80_columns(
    repo: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = io.StringIO()
    bars = Bars(Console(file=shown, width=80, force_terminal=True, color_system=None))
    with bars.progress:
        for what in BUSY:
            bars(what, 0.5, "")
        bars("holes before", 1.0, "hole 100000 of 100000")
        bars("training", 1.0, "step 100000, loss 12.34 (was 12.34)")
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", shown.getvalue())]
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("training") for line in lines) >= 1
    assert not any("…" in line for line in lines)

    monkeypatch.setattr(module, "Plan", lambda **given: replace(PLAN, **given))
    seen: list[str] = []
    real = Bars.__call__

    def told(self: Bars, what: str, share: float, figures: str) -> None:
        assert 0 <= share <= 1
        seen.append(what)
        real(self, what, share, figures)

    monkeypatch.setattr(Bars, "__call__", told)
    assert main([str(repo), "--model", str(model_file), "--rank", "8", "--steps", "40", "--holes", "3"]) == 0
    assert list(dict.fromkeys(seen)) == list(BUSY)
    captured = capsys.readouterr()
    assert all(len(line) <= 80 for line in captured.err.splitlines())
    assert all(len(line) <= 80 for line in captured.out.splitlines() if line.startswith(("│", "┏", "└")))
    assert main([str(repo), "--remove"]) == 0


def test_what_does_not_help_is_not_kept(
    repo: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # steps of this size change nothing
    monkeypatch.setattr(module, "Plan", lambda **given: replace(PLAN, lr=1e-9, **given))
    words = [str(repo), "--model", str(model_file), "--steps", "8", "--holes", "0"]
    assert main(words) == 1
    assert "nothing new is kept" in capsys.readouterr().out
    assert not adapter_file(repo).exists()


def test_what_cannot_be_written_is_said_before_anything_is_read(
    repo: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(module, "adapt", lambda *_: pytest.fail("it was begun"))
    words = [str(repo), "--model", str(model_file)]
    with pytest.raises(LacunaError, match=r"figures\.json cannot be written"):
        main([*words, "--json", str(tmp_path / "file" / "figures.json")])
    monkeypatch.setattr("lacuna_ls.engine.adapter_file.state_folder", lambda: tmp_path / "file" / "adapters")
    with pytest.raises(LacunaError, match="the adapter cannot be stored in"):
        main(words)


@pytest.mark.parametrize("wrong", [["--threads", "-1"], ["--holes", "-5"], ["--minutes", "nan"]])
def test_numbers_that_make_no_sense_are_asked_wrongly(repo: Path, wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(repo), *wrong])


@pytest.mark.parametrize("more", [[], ["--remove"]])
def test_the_folder_of_nobody_does_not_exist(more: list[str]) -> None:
    with pytest.raises(LacunaError, match="does not exist"):
        main(["~nosuchuser/repo", *more])


def test_links_that_lead_to_each_other_are_no_folder(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    with pytest.raises(LacunaError, match="name the folder of a repository"):
        main([str(tmp_path / "one")])

"""The fast step beside the plain loop: the same random numbers give the same canvases, whatever is turned on."""

from __future__ import annotations

import contextlib
import gc
import weakref
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from emulated_graphs import NoWaiting
from lacuna_ls.engine import pipeline
from lacuna_ls.engine.cuda_graph import Fork, GraphCache, Reports, StepGraph
from lacuna_ls.engine.denoise import Denoised, denoise
from lacuna_ls.engine.draws import PhiloxDraws, uniform_tokens
from lacuna_ls.engine.errors import EngineError
from lacuna_ls.engine.formats import EXACT
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.local import LocalEngine, _Bound
from lacuna_ls.engine.packed import load_packed
from lacuna_ls.engine.packed_engine import PackedEngine
from lacuna_ls.engine.packed_model import PackedModel
from lacuna_ls.engine.pipeline import Lead, Pipeline, Prefill, StepOptions, Sweep
from lacuna_ls.engine.policies import EntropyBound, RegionEntropySum, SamplingPolicy, StableAndConfident, answer_region
from lacuna_ls.engine.problem import NOISE, Canvas, CanvasProblem
from lacuna_ls.engine.slots import SlotPool
from lacuna_ls.kernels import dispatch as ops
from lacuna_ls.kernels.vocab import VocabStats
from random_models import random_model

CPU = torch.device("cpu")
V, EOS = 16, 15
PROMPT = tuple(torch.randint(0, V, (37,), generator=torch.Generator().manual_seed(0)).tolist())

SAMPLED = SamplingPolicy(stop=StableAndConfident(1, 0.3), accept=EntropyBound(0.6))
ARGMAX = SamplingPolicy(stop=RegionEntropySum(1.0), accept=EntropyBound(0.3), choose="argmax")

NEVER = SamplingPolicy(stop=StableAndConfident(1, 0.0))

WARM = Canvas((3, NOISE, 7, NOISE, 5), (False, False, False, False, True))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PackedModel:
    """Sixteen tokens, so that the sixteen likeliest are all of them; layers that say little, so that it is not
    chaotic.
    """
    config = tiny.tiny_config(vocab_size=V, eos_ids=(EOS,), canvas_length=64)
    source = tiny.save_shards(random_model(config, seed=4, sharpness=0.12, reach=0.1), tmp_path_factory.mktemp("model"))
    return load_packed(source, EXACT)


def plain(model: PackedModel, canvases: list[Canvas], policy: SamplingPolicy, max_steps: int = 10, **more) -> Denoised:
    cache = KVCache(model.config, CPU, torch.float32)
    model.encode(torch.tensor(PROMPT), cache)
    draws = PhiloxDraws(5, 0, V, CPU)
    ends = frozenset((EOS,))
    return denoise(_Bound(model, cache), canvases, policy, max_steps, torch.Generator(), ends, draws=draws, **more)


def fast(
    model: PackedModel,
    canvases: list[Canvas],
    policy: SamplingPolicy,
    options: StepOptions,
    num_rest: int = 0,
    max_steps: int = 10,
    **more,
) -> Denoised:
    slots = SlotPool(model.config, CPU, torch.float32, 1024)
    # another slot first, so that this one does not begin at the storage's first position
    slots.take(tuple(range(9)))
    cache = slots.take(PROMPT)
    head = PROMPT[: len(PROMPT) - num_rest]
    if head:
        model.encode(torch.tensor(head), cache)
    rest = PROMPT[len(head) :]
    out = Pipeline(model, policy, options).denoise(cache, canvases, max_steps, 5, frozenset((EOS,)), rest, **more)
    assert cache.length == len(PROMPT)
    return out


CANVASES = [
    pytest.param([Canvas.free(7)], id="a canvas that no bucket fits exactly"),
    pytest.param([Canvas.free(8)], id="a whole bucket"),
    pytest.param([Canvas.free(9), WARM, Canvas.free(3)], id="three lengths in one sweep, warm start, pinned suffix"),
    pytest.param([Canvas((4, 5), (True, True)), Canvas.free(2)], id="nothing free in one of them"),
]
OPTIONS = [
    pytest.param(StepOptions(num_top=16), 0, id="defaults"),
    pytest.param(StepOptions(num_top=16), 5, id="the end of the prompt in the first forward"),
    pytest.param(StepOptions(num_top=16), 37, id="the whole prompt in the first forward"),
    pytest.param(StepOptions(num_top=16, prompt_buckets=()), 5, id="the end of the prompt, not padded"),
    pytest.param(StepOptions(num_top=16, prompt_buckets=(37,)), 37, id="the whole prompt, a bucket exactly"),
    pytest.param(StepOptions(num_top=0), 0, id="dense self-conditioning"),
    pytest.param(StepOptions(buckets=(), num_top=16), 0, id="no buckets"),
    pytest.param(StepOptions(num_top=16, lag=0), 0, id="the done flag read at once"),
    pytest.param(StepOptions(num_top=16, lag=3), 0, id="the done flag read three steps late"),
    pytest.param(StepOptions(num_top=16, is_forked=True), 5, id="the dense MLP beside the experts"),
]


@pytest.mark.parametrize("policy", [pytest.param(SAMPLED, id="sampled"), pytest.param(ARGMAX, id="argmax")])
@pytest.mark.parametrize("canvases", CANVASES)
@pytest.mark.parametrize(("options", "num_rest"), OPTIONS)
def test_every_path_gives_the_plain_loops_canvases(
    model: PackedModel, canvases: list[Canvas], policy: SamplingPolicy, options: StepOptions, num_rest: int
):
    wanted = plain(model, canvases, policy)
    found = fast(model, canvases, policy, options, num_rest)
    for b, canvas in enumerate(canvases):
        rows = len(canvas.tokens)
        assert found.tokens[b, :rows].tolist() == wanted.tokens[b, :rows].tolist()
        assert torch.allclose(found.entropy[b, :rows], wanted.entropy[b, :rows], atol=2e-3)
        assert torch.allclose(found.logprob[b, :rows], wanted.logprob[b, :rows], atol=2e-3)
        is_pinned_only = all(canvas.pinned)
        # a canvas without a free row is stable at once here, and after one more step there
        assert is_pinned_only or found.steps[b] == wanted.steps[b]
    assert found.num_forwards <= wanted.num_forwards + options.lag


def test_the_tests_above_see_canvases_that_stop_and_that_do_not(model: PackedModel):
    steps = {
        int(s)
        for policy in (SAMPLED, ARGMAX)
        for s in plain(model, [Canvas.free(9), WARM, Canvas.free(3)], policy).steps
    }
    assert min(steps) < 10
    assert len(steps) > 1


def test_banned_tokens_are_never_written(model: PackedModel):
    banned = torch.zeros(V, dtype=torch.bool)
    banned[plain(model, [Canvas.free(8)], SAMPLED).tokens.unique()] = True
    banned[EOS] = False
    wanted = plain(model, [Canvas.free(8)], SAMPLED, banned=banned)
    found = fast(model, [Canvas.free(8)], SAMPLED, StepOptions(num_top=16), banned=banned)
    assert found.tokens.tolist() == wanted.tokens.tolist()
    assert not bool(banned[found.tokens].any())


def test_cancel_and_deadline_end_the_sweep(model: PackedModel):
    calls = iter((False, False, True))
    options = StepOptions(num_top=16)
    cancelled = fast(model, [Canvas.free(8)], NEVER, options, cancelled=lambda: next(calls))
    assert cancelled.is_cancelled
    assert cancelled.num_forwards == 3
    late = fast(model, [Canvas.free(8)], NEVER, options, deadline=0.0)
    assert late.num_forwards == 1
    assert not late.is_cancelled


def test_few_likely_tokens_stand_for_all_of_them(tmp_path: Path):
    # the effect of top-k self-conditioning on a distribution that is sharp, as a trained model's is
    config = tiny.tiny_config(vocab_size=97, canvas_length=64, eos_ids=(EOS,))
    model = load_packed(tiny.save_shards(random_model(config, seed=4, sharpness=1.6, reach=0.05), tmp_path), EXACT)
    hidden = torch.randn(32, 48, generator=torch.Generator().manual_seed(1))
    logits = model.logits(hidden) / 0.4
    top, ids = logits.topk(8)
    weights = torch.exp(top - logits.logsumexp(-1, keepdim=True))
    few, dense = model.top_soft_embedding(ids, weights), model.soft_embedding(logits)
    share = weights.sum(-1)
    error = (few - dense).norm(dim=-1) / dense.norm(dim=-1)
    assert float(share.min()) > 0.9
    assert bool((error < 3 * (1 - share) + 1e-5).all())


def test_draws_depend_on_nothing_but_seed_step_and_row():
    steps = torch.arange(3)
    rows = torch.arange(40)[None]
    wide = uniform_tokens(9, steps, rows, 4, 97)
    assert torch.equal(uniform_tokens(9, steps, rows[:, :7], 4, 97), wide[:, :, :7])
    assert not torch.equal(uniform_tokens(10, steps, rows, 4, 97), wide)
    many = uniform_tokens(1, torch.arange(500), torch.arange(100)[None], 4, 20).flatten()
    counts = torch.bincount(many, minlength=20)
    assert counts[:4].sum() == 0
    # 50,000 draws over sixteen values: 3125 each, standard deviation 54
    assert int((counts[4:] - 3125).abs().max()) < 5 * 54
    draws = PhiloxDraws(3, 0, 7, CPU)
    draws.noise((1, 1))
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log().expand(1, 4000, 4)
    share = torch.bincount(draws.sample(logits).flatten(), minlength=4) / 4000
    assert torch.allclose(share, torch.tensor([0.5, 0.25, 0.125, 0.125]), atol=0.03)


# -- the engine over it
# --------------------------------------------------------------------------------------------------


def problem(prompt: tuple[int, ...] = PROMPT, **more) -> CanvasProblem:
    return CanvasProblem(prompt, (Canvas.free(9), WARM), max_steps=8, seed=5, **more)


@pytest.mark.parametrize(
    "fused_rows", [pytest.param(0, id="prefill first"), pytest.param(20, id="the last rows fused")]
)
def test_engine_fills_as_the_plain_loop_does(model: PackedModel, fused_rows: int):
    engine = PackedEngine(model, SAMPLED, kv_tokens=1024, options=StepOptions(num_top=16), fused_rows=fused_rows)
    wanted = plain(model, [Canvas.free(9), WARM], SAMPLED, max_steps=8)
    for attempt in range(2):
        found = engine.fill(problem())
        assert [list(r.tokens) for r in found] == [
            wanted.tokens[b, : len(r.tokens)].tolist() for b, r in enumerate(found)
        ]
        assert found[0].timings.num_cached == (len(PROMPT) if attempt else 0)
    # a few characters were typed, and one deleted: only they are computed
    timings = engine.fill(problem((*PROMPT[:-1], 3, 4)))[0].timings
    assert (timings.num_cached, timings.num_prefilled) == (36, 2)
    assert 0 <= found[0].end <= 9


def test_engine_decodes_causally_as_local_engine_does(model: PackedModel):
    packed = PackedEngine(model, ARGMAX, kv_tokens=1024)
    local = LocalEngine(model, ARGMAX)
    packed.fill(problem())
    for decoding in ("autoregressive", "verify"):
        found, wanted = packed.fill(problem(decoding=decoding)), local.fill(problem(decoding=decoding))
        if decoding == "autoregressive":
            assert [r.tokens for r in found] == [r.tokens for r in wanted]
        assert [r.tokens for r in packed.fill(problem(decoding="autoregressive"))] == [r.tokens for r in found]


def test_engine_keeps_documents_apart(model: PackedModel):
    engine = PackedEngine(model, SAMPLED, kv_tokens=1024, options=StepOptions(num_top=16))
    other = tuple(reversed(PROMPT))
    first, second = engine.fill(problem()), engine.fill(problem(other))
    again = engine.fill(problem())
    assert again[0].tokens == first[0].tokens
    assert again[0].timings.num_cached == len(PROMPT)
    assert engine.fill(problem(other))[0].tokens == second[0].tokens
    assert engine.status().kv_bytes > 0
    engine.close()
    assert engine.status().state == "closed"


def test_prompts_read_ahead_keep_to_their_slots(model: PackedModel):
    """Two prompts with a common beginning and a third: whose keys are whose, and which last state belongs to which."""
    rng = torch.Generator().manual_seed(7)

    def tokens(num: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, V, (num,), generator=rng).tolist())

    engine, truth = PackedEngine(model, kv_tokens=2048), LocalEngine(model)
    first, second, third = (*PROMPT, *tokens(60)), (*PROMPT, *tokens(60)), tokens(50)
    for prompt in (first, second, third):
        engine.prefill(prompt)
    for prompt in (third, second, first, PROMPT):
        asked = CanvasProblem(prompt, (Canvas.free(6),), decoding="autoregressive")
        found, wanted = engine.fill(asked)[0], truth.fill(asked)[0]
        assert found.tokens == wanted.tokens
        assert found.timings.num_cached >= len(prompt) - 1
    assert engine._slots is not None
    assert len(engine._slots.slots) == 3


@pytest.mark.parametrize(
    ("num_held", "num_left", "num_rows", "is_denoised"),
    [
        pytest.param(37, 20, 4, True, id="denoised between"),
        pytest.param(250, 200, 100, False, id="the slot has to grow"),
    ],
)
def test_a_prompt_that_was_cut_is_not_continued_from_the_state_of_the_longer_one(
    model: PackedModel, num_held: int, num_left: int, num_rows: int, is_denoised: bool
):
    held = tuple(torch.randint(0, V, (num_held,), generator=torch.Generator().manual_seed(3)).tolist())
    left = held[:num_left]
    engine = PackedEngine(model, kv_tokens=1024)
    engine.prefill(held)
    if is_denoised:
        engine.fill(problem(left))
    given = Canvas(tuple(i % V for i in range(num_rows)), (False,) * num_rows)
    asked = CanvasProblem(left, (given,), decoding="score")
    assert engine.fill(asked)[0].logprob == pytest.approx(LocalEngine(model).fill(asked)[0].logprob, abs=1e-4)


def test_an_answer_that_is_no_number_is_an_error(tmp_path: Path):
    source = tiny.save_shards(random_model(tiny.tiny_config(vocab_size=V, eos_ids=(EOS,)), seed=4), tmp_path)
    broken = load_packed(source, EXACT)
    broken._final_norm.fill_(torch.nan)
    engine = PackedEngine(broken, SAMPLED, kv_tokens=1024)
    with pytest.raises(EngineError, match="not a number"):
        engine.fill(problem())


def test_padding_asks_for_few_experts(model: PackedModel, monkeypatch: pytest.MonkeyPatch):
    """Rows that nobody has are read for, too: they are one token's, so they all go to the same experts."""
    seen: list[torch.Tensor] = []
    slots = ops.expert_slots
    monkeypatch.setattr(ops, "expert_slots", lambda x, ids, experts: seen.append(ids) or slots(x, ids, experts))
    fast(model, [Canvas.free(3)], NEVER, StepOptions(buckets=(64,), num_top=16), max_steps=3)
    canvas_rows = [ids for ids in seen if len(ids) == 64]
    assert canvas_rows
    for ids in canvas_rows:
        assert bool((ids[3:] == ids[3]).all())


def test_warm_up_prepares_what_a_request_will_use(model: PackedModel):
    engine = PackedEngine(model, SAMPLED, kv_tokens=1024, options=StepOptions(num_top=16))
    engine.warm_up((9,))
    built = engine._pipeline.num_graphs
    # a line ends with any token that has a newline: the product asks with more end tokens than the warm-up did
    for length in (5, 20, len(PROMPT)):
        engine.fill(CanvasProblem(PROMPT[:length], (Canvas.free(9),), max_steps=8, seed=5, stop=(3, 5, 7, 8)))
    engine.prefill(tuple(reversed(PROMPT)))
    found = engine.fill(CanvasProblem(PROMPT, (Canvas.free(9),), max_steps=8, seed=5))
    assert engine._pipeline.num_graphs == built
    assert list(found[0].tokens) == plain(model, [Canvas.free(9)], SAMPLED, max_steps=8).tokens[0].tolist()


def test_other_end_tokens_need_no_other_sweep(model: PackedModel):
    engine = PackedEngine(model, ARGMAX, kv_tokens=1024, options=StepOptions(num_top=16))
    free = (Canvas.free(9),)
    first = engine.fill(CanvasProblem(PROMPT, free, max_steps=8, seed=5))[0]
    built = engine._pipeline.num_graphs
    stop = first.tokens[2]
    found = engine.fill(CanvasProblem(PROMPT, free, max_steps=8, seed=5, stop=(stop,)))[0]
    assert engine._pipeline.num_graphs == built
    assert found.end == found.tokens.index(stop) + 1
    # more of them than the sweep has room for
    many = engine.fill(CanvasProblem(PROMPT, free, max_steps=8, seed=5, stop=tuple(range(V - 1))))[0]
    assert many.end == 1


def test_cancelled_prefill_is_a_value(model: PackedModel):
    engine = PackedEngine(model, SAMPLED, kv_tokens=1024, fused_rows=0)
    long = tuple(i % V for i in range(600))
    found = engine.fill(problem(long), lambda: True)
    assert all(r.is_cancelled and r.steps == 0 for r in found)
    assert engine.fill(problem(long))[0].timings.num_cached == 256


def test_region_stop_looks_at_the_answer_only():
    tokens = torch.tensor([[3, 4, EOS, 9, 9], [3, 4, 5, 6, 7]])
    entropy = torch.tensor([[0.1, 0.1, 0.1, 5.0, 5.0], [0.1, 0.1, 0.1, 5.0, 5.0]])
    is_free = torch.ones(2, 5, dtype=torch.bool)
    ends = frozenset((EOS,))
    assert answer_region(tokens, ends).tolist() == [[True, True, True, False, False], [True] * 5]
    assert RegionEntropySum(0.5).done([tokens], entropy, is_free, ends).tolist() == [True, False]
    assert StableAndConfident(0, 0.5).done([tokens], entropy, is_free, ends).tolist() == [False, False]


# -- graphs
# ----------------------------------------------------------------------------------------------------------------


def test_the_eager_twin_runs_the_body_on_every_replay():
    buffer = torch.zeros(1)
    graph = StepGraph(lambda: buffer.add_(1).__class__ and None, CPU)
    graph.prepare()
    assert not graph.is_captured
    graph.replay()
    graph.replay()
    assert float(buffer) == 2


def test_reports_lag_and_the_one_that_tells_the_end_is_kept():
    reports = Reports(CPU, lag=2)
    seen = []
    for step, is_end in enumerate((False, True, True, True)):
        reports.push(torch.tensor([float(is_end), step]))
        seen.append(reports.is_done())
    assert seen == [False, False, False, True]
    assert reports.latest().tolist() == [1, 1]
    # without an end it is the last one
    reports = Reports(CPU, lag=2)
    for step in range(4):
        reports.push(torch.tensor([0.0, step]))
        assert not reports.is_done()
    assert reports.latest().tolist() == [0, 3]


def test_a_fork_starts_after_what_was_before_and_ends_before_what_is_after(monkeypatch: pytest.MonkeyPatch):
    """The edges on a device: a pretended one that writes down who waits for whom."""
    edges: list[tuple[str, str]] = []

    class Stream:
        def __init__(self, device: torch.device, name: str = "side") -> None:
            self.device, self.name = device, name

        def wait_stream(self, other: Stream) -> None:
            edges.append((self.name, other.name))

    main = Stream(torch.device("cuda"), "main")
    current = [main]

    @contextlib.contextmanager
    def use(stream: Stream):
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", use)
    fork = Fork(torch.device("cuda"))
    with fork.branch():
        assert current[-1].name == "side"
    assert current == [main]
    fork.join()
    assert edges == [("side", "main"), ("main", "side")]


def test_graphs_are_dropped_oldest_first():
    cache: GraphCache[int] = GraphCache(2)
    assert [cache.get(key, lambda key=key: key * 10) for key in (1, 2, 1, 3)] == [10, 20, 10, 30]
    assert cache.get(1, lambda: 99) == 10
    assert cache.get(2, lambda: 98) == 98
    assert len(cache) == 2


def test_what_is_dropped_gives_its_memory_back_at_once(model: PackedModel, monkeypatch: pytest.MonkeyPatch):
    """Not when Python next looks for cycles: an exhausted device has no room for the old storage beside the new one,
    and a graph must not go while another is captured.
    """
    monkeypatch.setattr(pipeline, "MAX_GRAPHS", 1)
    engine = PackedEngine(model, SAMPLED, kv_tokens=1024, options=StepOptions(num_top=16))
    engine.warm_up((9,))
    engine.fill(problem())
    gc.disable()
    try:
        sweep = engine._steps.prepare(engine._slot, 1, 30)[0]
        engine._steps.prepare_lead(sweep, 5, engine._slot)
        first, storage = weakref.ref(sweep), weakref.ref(engine._slots.storage(0)[0])
        del sweep
        assert first() is not None
        sweep = engine._steps.prepare(engine._slot, 1, 60)[0]
        assert first() is None
        engine._steps.prepare_lead(sweep, 5, engine._slot)
        del sweep
        engine.shrink(512)
        assert storage() is None
        storage = weakref.ref(engine._slots.storage(0)[0])
        engine.warm_up((9,))
        engine.close()
        assert storage() is None
    finally:
        gc.enable()


def test_graphs_after_a_clear_share_another_pool(model: PackedModel, monkeypatch: pytest.MonkeyPatch):
    """torch refuses a capture into a pool that no graph is left of."""
    handles = iter([(0, 1), (0, 2)])
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    steps = Pipeline(model, SAMPLED)
    assert steps._memory is None
    steps._is_captured = True
    for wanted in ((0, 1), (0, 2)):
        steps.clear()
        assert steps._memory == wanted


@pytest.mark.parametrize("num_top", [pytest.param(8, id="likeliest tokens"), pytest.param(0, id="dense")])
@pytest.mark.parametrize("policy", [pytest.param(SAMPLED, id="the reference's stop"), pytest.param(ARGMAX, id="ours")])
def test_a_step_never_waits_for_the_device(
    model: PackedModel, policy: SamplingPolicy, num_top: int, monkeypatch: pytest.MonkeyPatch
):
    # the truths of these two wait; on a GPU they are launches
    def slots(x: torch.Tensor, ids: torch.Tensor, experts: object) -> torch.Tensor:
        return x[:, None].expand(-1, ids.shape[1], -1).contiguous()

    def stats(hidden: torch.Tensor, table: torch.Tensor, *, temperature: torch.Tensor, num_top: int, **_: object):
        logits = hidden @ table.T
        top, ids = logits.topk(num_top)
        lse = logits.logsumexp(-1)
        return VocabStats(ids[:, 0], top[:, 0], ids[:, 0], top[:, 0], lse, lse, lse, lse, ids, top)

    monkeypatch.setattr(ops, "expert_slots", slots)
    monkeypatch.setattr(ops, "vocab_stats", stats)
    slot = SlotPool(model.config, CPU, torch.float32, 512).take(PROMPT)
    sweep = Sweep(model, slot, policy, 8, 2, 16, 64, num_top)
    lead, prefill = Lead(model, slot, 16, 2, 16), Prefill(model, slot, 16)
    sweep.load([Canvas.free(9), WARM], slot, 8, 5, None, PROMPT[:5], lead, frozenset((EOS,)))
    with NoWaiting():
        prefill.body()
        sweep.first_step(lead)
        sweep.step()
    assert int(sweep.step_index) == 2
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        bool(sweep.is_done)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_steps_equal_eager_steps_on_the_gpu(tmp_path: Path):
    config = tiny.tiny_config(hidden_size=128, vocab_size=512, expert_size=64, canvas_length=64)
    source = tiny.save_shards(random_model(config, seed=4, sharpness=0.12, reach=0.1), tmp_path)
    model = load_packed(source, device="cuda")
    results = []
    for options in (StepOptions(graph="eager"), StepOptions(), StepOptions(is_forked=True)):
        engine = PackedEngine(model, SAMPLED, kv_tokens=1024, options=options)
        engine.warm_up((9,))
        results.append([
            [r.tokens for r in engine.fill(CanvasProblem(PROMPT, (Canvas.free(9), WARM), max_steps=8, seed=s))]
            for s in range(10)
        ])  # fmt: skip
    assert results[0] == results[1]
    assert results[0] == results[2]

"""A captured engine answers as an eager one does, whatever was asked before: CUDA graphs emulated on a CPU.

The emulation (tests/support/emulated_graphs.py) replays what a body did when it was captured, and nothing else. The
last tests plant the faults that it is for, in bodies and in the engine, and see them found. What it cannot show, a
GPU's test does (test_pipeline.py).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import tiny_models as tiny
import torch
from emulated_graphs import CapturedOnCpu, Card, emulated_graphs
from lacuna_ls.engine.cuda_graph import Fork
from lacuna_ls.engine.errors import EngineError
from lacuna_ls.engine.formats import EXACT
from lacuna_ls.engine.packed import load_packed
from lacuna_ls.engine.packed_engine import PackedEngine
from lacuna_ls.engine.packed_model import PackedModel
from lacuna_ls.engine.pipeline import Lead, Pipeline, StepOptions, Sweep
from lacuna_ls.engine.policies import EntropyBound, RegionEntropySum, SamplingPolicy, StableAndConfident
from lacuna_ls.engine.problem import NOISE, Canvas, CanvasProblem, CanvasResult
from lacuna_ls.engine.slots import Slot
from random_models import random_model
from torch import Tensor

CPU = torch.device("cpu")
V, EOS = 16, 15
KV_TOKENS = 2048

SAMPLED = SamplingPolicy(stop=StableAndConfident(1, 0.3), accept=EntropyBound(0.6))
ARGMAX = SamplingPolicy(stop=RegionEntropySum(1.0), accept=EntropyBound(0.3), choose="argmax")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PackedModel:
    """As in test_pipeline.py: few tokens, and layers that say little, so that it is not chaotic."""
    config = tiny.tiny_config(vocab_size=V, eos_ids=(EOS,), canvas_length=64)
    source = tiny.save_shards(random_model(config, seed=4, sharpness=0.12, reach=0.1), tmp_path_factory.mktemp("model"))
    return load_packed(source, EXACT)


@pytest.fixture
def card(model: PackedModel, monkeypatch: pytest.MonkeyPatch):
    """A pretended GPU, on which the model forks."""
    with emulated_graphs() as card:
        monkeypatch.setattr(model, "_fork", Fork(torch.device("cuda")))
        yield card


class Twins:
    """Two engines over one model that are asked the same: one captures its steps, one runs them."""

    def __init__(self, model: PackedModel, policy: SamplingPolicy, num_top: int, is_forked: bool) -> None:
        def engine(graph: str) -> PackedEngine:
            options = StepOptions(num_top=num_top, is_forked=is_forked, graph=graph)
            engine = PackedEngine(model, policy, kv_tokens=KV_TOKENS, options=options)
            engine.warm_up((9,))
            return engine

        self.captured, self.eager = engine("auto"), engine("eager")

    def fill(self, problem: CanvasProblem) -> list[CanvasResult]:
        found, wanted = self.captured.fill(problem), self.eager.fill(problem)
        assert len(found) == len(wanted)
        for ours, theirs in zip(found, wanted):
            assert ours.tokens == theirs.tokens
            assert (ours.steps, ours.end, ours.is_finished) == (theirs.steps, theirs.end, theirs.is_finished)
            assert ours.entropy == pytest.approx(theirs.entropy, abs=1e-5)
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-5)
            assert ours.timings.num_cached == theirs.timings.num_cached
            assert ours.timings.num_forwards == theirs.timings.num_forwards
        return found

    def prefill(self, prompt: tuple[int, ...]) -> None:
        found, wanted = self.captured.prefill(prompt), self.eager.prefill(prompt)
        assert (found.num_cached, found.num_prefilled) == (wanted.num_cached, wanted.num_prefilled)

    def shrink(self, kv_tokens: int) -> None:
        for engine in (self.captured, self.eager):
            shrink(engine, kv_tokens)


def shrink(engine: PackedEngine, kv_tokens: int) -> None:
    pool = engine._slots
    assert pool is not None
    engine.shrink(kv_tokens)
    # on a device that memory is somebody else's now
    for storage in (*pool._keys, *pool._values):
        storage.fill_(torch.nan)


def edit(document: list[int], rng: random.Random) -> None:
    """What happens to a file: a key, a word or a paragraph, at its end or in the middle, and sometimes less of it."""
    at = rng.choice((len(document), len(document) // 2))
    document[at:at] = [rng.randrange(V - 1) for _ in range(rng.choice((0, 1, 3, 20, 90)))]
    if rng.random() < 0.3:
        # a prompt has a token at least
        at = rng.randrange(1, len(document) + 1)
        del document[at : at + rng.choice((1, 8))]
    del document[900:]


def random_canvas(rng: random.Random) -> Canvas:
    """Sometimes warm, with pinned rows; sometimes longer than the model's own, which then fills block by block."""
    L = rng.choice((3, 5, 8, 9, 9, 30, 100))
    tokens, pinned = [NOISE] * L, [False] * L
    if rng.random() < 0.5:
        for i in rng.sample(range(L), L // 3):
            tokens[i], pinned[i] = rng.randrange(V - 1), rng.random() < 0.7
    return Canvas(tuple(tokens), tuple(pinned))


def random_problem(prompt: tuple[int, ...], rng: random.Random) -> CanvasProblem:
    return CanvasProblem(
        prompt,
        tuple(random_canvas(rng) for _ in range(rng.choice((1, 1, 2)))),
        max_steps=rng.choice((1, 4, 8)),
        seed=rng.randrange(2**40),
        stop=tuple(rng.sample(range(V - 1), rng.choice((0, 2, 5)))),
        banned=tuple(rng.sample(range(V - 1), rng.choice((0, 3)))),
    )


@pytest.mark.parametrize("is_forked", [pytest.param(False, id="one stream"), pytest.param(True, id="forked")])
@pytest.mark.parametrize(
    ("policy", "num_top"),
    [
        pytest.param(SAMPLED, 8, id="sampled, likeliest tokens"),
        pytest.param(ARGMAX, 0, id="argmax, dense self-conditioning"),
    ],
)
def test_captured_steps_equal_eager_steps(
    model: PackedModel, card: Card, policy: SamplingPolicy, num_top: int, is_forked: bool
):
    rng = random.Random(2 * num_top + is_forked)
    twins = Twins(model, policy, num_top, is_forked)
    assert card.num_captured >= 7, "the warm-up captures prefills, a step and its leads"
    documents = [[rng.randrange(V - 1) for _ in range(num)] for num in (5, 40, 300, 700)]
    turns = ["fill"] * 10 + ["prefill"] * 3 + ["autoregressive"] * 2
    rng.shuffle(turns)
    turns[9:9] = ["shrink"]
    lengths: set[int] = set()
    for seed, turn in enumerate(turns):
        document = rng.choice(documents)
        edit(document, rng)
        prompt = tuple(document)
        if turn == "shrink":
            twins.shrink(1536)
        elif turn == "prefill":
            twins.prefill(prompt)
        elif turn == "autoregressive":
            twins.fill(CanvasProblem(prompt, (Canvas.free(5),), decoding="autoregressive", seed=seed))
        else:
            found = twins.fill(random_problem(prompt, rng))
            lengths |= {len(result.tokens) for result in found}
    assert card.num_replayed >= 30
    assert len(lengths) >= 4


# -- what the emulation is for
# -----------------------------------------------------------------------------------------------


def replayed(body: Callable[[], None], times: int = 2) -> CapturedOnCpu:
    graph = CapturedOnCpu(body, CPU)
    graph.prepare()
    assert graph.is_captured
    for _ in range(times):
        graph.replay()
    return graph


def test_a_body_on_static_buffers_is_replayed(card: Card):
    given, total = torch.ones(3), torch.zeros(3)
    runs: list[int] = []

    def body() -> None:
        runs.append(1)
        # a view, a temporary, an index on the device, and in place
        total[1:].add_((given * 2)[given.long()[1:]])

    graph = replayed(body, times=5)
    assert total.tolist() == [0, 16, 16]
    # new input, in the buffer that the graph knows
    total.zero_()
    given.fill_(2)
    graph.replay()
    assert total.tolist() == [0, 4, 4]
    # two warm-ups and the capture: the replays know nothing of Python
    assert len(runs) == 3
    assert (card.num_captured, card.num_replayed) == (1, 6)


def test_a_buffer_that_is_bound_anew_is_noticed(card: Card):
    held = {"state": torch.zeros(3)}

    def body() -> None:
        held["state"] = held["state"] + 1

    replayed(body)
    assert bool(held["state"].isnan().all())


def test_a_number_of_pythons_stays_what_it_was(card: Card):
    out, step = torch.zeros(1), [0]

    def body() -> None:
        step[0] += 1
        out.fill_(step[0])

    replayed(body, times=4)
    # the third run was the capture
    assert float(out) == step[0] == 3


def test_what_is_read_before_it_is_written_is_poison(card: Card):
    fork, out, given = Fork(torch.device("cuda")), torch.zeros(3), torch.ones(3)

    def body(is_late: bool) -> None:
        with fork.branch():
            product = given * 3
        if is_late:
            fork.join()
        out.copy_(product)
        fork.join()

    replayed(lambda: body(True))
    assert out.tolist() == [3, 3, 3]
    # the body itself computes the same: where there is one stream, nobody is early
    body(False)
    assert out.tolist() == [3, 3, 3]
    replayed(lambda: body(False))
    assert bool(out.isnan().all())


def test_what_a_replay_left_behind_is_poison(card: Card):
    """The next replay of this graph, or of another in its pool, writes there."""
    out, kept = torch.zeros(3), [torch.ones(3)]

    def body() -> None:
        out.copy_(kept[0])
        kept[0] = out + 1

    body()
    assert kept[0].tolist() == [2, 2, 2]
    replayed(body)
    assert bool(kept[0].isnan().all())
    # and what the capture read is the warm-up's for ever
    assert out.tolist() == [4, 4, 4]


def test_a_branch_that_nobody_joins_is_refused(card: Card):
    fork, out = Fork(torch.device("cuda")), torch.zeros(3)

    def body() -> None:
        with fork.branch():
            out.add_(1)

    with pytest.raises(RuntimeError, match="nobody joined"):
        replayed(body)


@pytest.mark.parametrize(
    "wait",
    [
        pytest.param(float, id="a number is read"),
        pytest.param(lambda x: x[x > 0], id="as many rows as there are"),
        pytest.param(lambda x: x + torch.tensor([1.0]), id="a copy from the host"),
    ],
)
def test_a_body_that_waits_is_refused(card: Card, wait: Callable[[Tensor], object]):
    x = torch.ones(1)
    with pytest.raises(AssertionError, match="waits for the device"):
        replayed(lambda: wait(x) and None)


def bound_anew(self: Sweep, ids: Tensor, weights: Tensor, soft: Tensor) -> None:
    pinned, known = self.is_pinned.flatten()[:, None], self.given.clamp_min(0).flatten()[:, None]
    only_first = torch.zeros_like(self.soft_weights)
    only_first[:, 0] = 1
    self.soft_ids, self.soft_weights = torch.where(pinned, known, ids), torch.where(pinned, only_first, weights)


def planned_anew(self: Lead, tokens: Sequence[int], cache: Slot, num_rows: Tensor | None) -> None:
    self.tokens.fill_(self.model.config.pad_id)
    self.tokens[: len(tokens)] = torch.tensor(tokens)
    self.plan = replace(self._planned(cache, len(tokens), num_rows), is_forked=self.plan.is_forked)


def cleared_without_a_new_pool(self: Pipeline) -> None:
    self._prefills.clear()
    self._sweeps.clear()


FAULTS = [
    pytest.param([(Sweep, "_set_soft", bound_anew)], id="self-conditioning bound anew"),
    pytest.param([(Lead, "load", planned_anew)], id="another plan for a captured forward"),
    pytest.param(
        [(Pipeline, "clear", lambda self: None), (Pipeline, "_storage", lambda self, cache: 0)],
        id="graphs kept over a storage that is gone",
    ),
    pytest.param([(Pipeline, "clear", cleared_without_a_new_pool)], id="a pool whose graphs are all gone"),
]


@pytest.mark.parametrize("faults", FAULTS)
def test_faults_in_the_engine_show_when_it_is_captured(
    model: PackedModel, card: Card, faults: list[tuple[type, str, object]], monkeypatch: pytest.MonkeyPatch
):
    """And only then: run eagerly the engine answers the same with them."""

    def answers(graph: str) -> list[tuple[int, ...]]:
        engine = PackedEngine(model, SAMPLED, kv_tokens=KV_TOKENS, options=StepOptions(graph=graph, is_forked=True))
        found: list[tuple[int, ...]] = []
        for seed in range(6):
            # documents with a common head, which is copied from slot to slot
            prompt = (1, 2, 3, 4, *((seed + i * i) % V for i in range(20 + 7 * seed)))
            found += [r.tokens for r in engine.fill(CanvasProblem(prompt, (Canvas.free(9),), max_steps=6, seed=seed))]
            if seed == 2:
                shrink(engine, 1024)
        return found

    wanted = answers("eager")
    assert answers("auto") == wanted
    for owner, name, fault in faults:
        monkeypatch.setattr(owner, name, fault)
    assert answers("eager") == wanted
    # an answer that is poison is an error, and so is a capture that torch would refuse
    with contextlib.suppress(EngineError, RuntimeError):
        assert answers("auto") != wanted

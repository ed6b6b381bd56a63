"""The measuring of tiles, with operations and a clock that the test controls."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lacuna_ls.kernels import agreement, benchmark, measure, tiles, tune
from lacuna_ls.kernels.experts import experts_reference, pack_experts

SHIPPED = {"rows": 6, "BM": 8, "BN": 64, "warps": 4, "stages": 4}
DEFAULTS = {"split": 1, "fold": 0}
CPU = torch.device("cpu")


def fake_jobs(monkeypatch: pytest.MonkeyPatch, run) -> None:
    """One operation, whose truth is four times 1."""

    def jobs(table, shape, device):
        entries = table["gate_up.int4"]
        yield tune._Job(
            "gate_up.int4", 6, dict(entries[0]), entries, 0, lambda tile: (run(tile),), lambda: (torch.ones(4),)
        )

    monkeypatch.setattr(tune, "_jobs", jobs)


def clock_of(cost):
    """A clock that reads the cost of the tile which the measured work was bound to."""
    return lambda works: cost(works[0].args[0])


def test_candidates_change_one_thing_and_keep_the_limit():
    found = tune.candidates("gate_up.int4", SHIPPED)
    assert found[0] == SHIPPED
    assert len(found) >= 5
    for tile in found[1:]:
        assert sum(tile.get(key, DEFAULTS.get(key)) != SHIPPED.get(key, DEFAULTS.get(key)) for key in tile) == 1
        assert tile["rows"] == 6
        assert tile["BM"] == 8
    assert {tile["BS"] for tile in tune.candidates("attention", {"BM": 32, "BS": 16, "warps": 4, "stages": 2})} == {
        16,
        32,
    }
    wide = tune.candidates("vocab", {"BM": 256, "BV": 128, "BH": 64, "warps": 16, "stages": 4})
    assert {tile["stages"] for tile in wide if tile["warps"] == 16} == {3, 4, 5}
    assert {tile["warps"] for tile in wide} == {8, 16}
    assert len(tune.candidates("router", {"BM": 16, "BE": 64, "BH": 128, "warps": 4})) >= 4


def test_only_a_linear_layer_is_cut_along_its_columns():
    """The experts' tiles have no parts to add: there are programs enough."""
    wide = tune.candidates("linear.wide", {**SHIPPED, "split": 4})
    assert {tile.get("split") for tile in wide} == {2, 4, 8}
    assert all("fold" not in tile for tile in wide)
    assert {tile.get("split", 1) for tile in tune.candidates("linear.int4", SHIPPED)} == {1, 2}
    assert not any("split" in tile for tile in tune.candidates("gate_up.int4", SHIPPED))


def test_the_fastest_right_candidate_wins(monkeypatch: pytest.MonkeyPatch):
    def run(tile):
        if tile["BN"] == 128:
            raise RuntimeError("out of resource: shared memory")
        # the fastest of all gives another answer
        return torch.full((4,), 2.0 if tile["warps"] == 8 else 1.0)

    fake_jobs(monkeypatch, run)
    cost = {5: 0.5, 4: 1.0, 3: 0.9}
    seen: list[str] = []
    tuned = tune.tune(
        CPU, lambda done, total, what: seen.append(f"{done}/{total} {what}"),
        measured_by=clock_of(lambda tile: 0.1 if tile["warps"] == 8 else cost[tile["stages"]]),
    )  # fmt: skip
    winner = tuned.winners[0]
    assert winner.tile["stages"] == 5
    assert (winner.shipped_ms, winner.best_ms) == (1.0, 0.5)
    assert tuned.is_complete
    num_candidates = len(tune.candidates("gate_up.int4", tiles.shipped()["default"]["gate_up.int4"][0]))
    assert seen[0] == f"0/{num_candidates} gate_up.int4, 6 rows"
    # what comes out is what goes in
    tiles.use({"a card": tuned.table})
    assert tiles.table_for("a card", (8, 9))["gate_up.int4"][0] == winner.tile
    tiles.use({})


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(None, id="it does not run"),
        pytest.param(torch.full((4,), 1.1), id="it is wrong"),
        pytest.param(torch.full((4,), torch.nan), id="nothing was written"),
    ],
)
def test_a_shipped_tile_that_fails_is_no_truth_and_gets_no_speed(monkeypatch: pytest.MonkeyPatch, answer):
    shipped = tiles.shipped()["default"]["gate_up.int4"][0]

    def run(tile):
        if tile == shipped:
            if answer is None:
                raise RuntimeError("out of resource: shared memory")
            return answer
        # only one candidate is right; the others agree with each other
        return torch.ones(4) if tile["stages"] == 5 else torch.full((4,), 7.0)

    fake_jobs(monkeypatch, run)
    winner = tune.tune(CPU, lambda *_: None, measured_by=lambda works: 1.0).winners[0]
    assert winner.tile == {**shipped, "stages": 5}
    assert winner.shipped_ms == float("inf")
    assert (winner.best_ms, winner.num_measured) == (1.0, 1)


def test_where_nothing_is_right_nothing_changes(monkeypatch: pytest.MonkeyPatch):
    fake_jobs(monkeypatch, lambda tile: torch.full((4,), torch.nan))
    tuned = tune.tune(CPU, lambda *_: None, measured_by=lambda works: 1.0)
    assert tuned.winners == ()
    assert tuned.table["gate_up.int4"] == tiles.shipped()["default"]["gate_up.int4"]


def test_a_gain_within_the_noise_keeps_the_shipped_tile(monkeypatch: pytest.MonkeyPatch):
    fake_jobs(monkeypatch, lambda tile: torch.ones(4))
    tuned = tune.tune(CPU, lambda *_: None, measured_by=clock_of(lambda tile: 0.99 if tile["stages"] == 5 else 1.0))
    assert tuned.winners[0].tile == tiles.shipped()["default"]["gate_up.int4"][0]


def test_when_the_time_is_over_the_rest_keeps_its_tiles(monkeypatch: pytest.MonkeyPatch):
    fake_jobs(monkeypatch, lambda tile: torch.ones(4))
    tuned = tune.tune(CPU, lambda *_: None, seconds=-1.0, measured_by=lambda works: 1.0)
    assert not tuned.is_complete
    assert tuned.winners == ()
    assert tuned.table["gate_up.int4"] == tiles.shipped()["default"]["gate_up.int4"]


def test_without_a_gpu_there_is_nothing_to_measure():
    with pytest.raises(ValueError, match="CUDA"):
        tune.tune(CPU, lambda *_: None)


def test_the_shipped_table_is_never_changed(monkeypatch: pytest.MonkeyPatch):
    before = {name: [dict(t) for t in entries] for name, entries in tiles.shipped()["default"].items()}
    fake_jobs(monkeypatch, lambda tile: torch.ones(4))
    tune.tune(CPU, lambda *_: None, measured_by=clock_of(lambda tile: 1.0 / tile["stages"]))
    assert tiles.shipped()["default"] == before


def test_a_wrong_answer_gets_no_speed(monkeypatch: pytest.MonkeyPatch):
    def case(name: str, operation: str, got: float) -> benchmark.Case:
        return benchmark.Case(
            operation, name, 1e6, lambda: (torch.full((4,), got),), lambda: (torch.ones(4),),
            baselines=(lambda: torch.ones(4),),
        )  # fmt: skip

    def cases(device, sizes, only):
        yield case("right", "linear", 1.0)
        yield case("wrong", "linear", 1.1)
        yield case("never written", "linear", torch.nan)
        yield case("right, but its tests are red", "router", 1.0)

    monkeypatch.setattr(benchmark, "cases", cases)
    right, wrong, nan, red = benchmark.run(CPU, benchmark.Sizes(), compile_s=0.0, proven={"linear"})
    assert right.is_right
    assert "GB/s" in right.line()
    assert "torch" in right.line()
    for row in (wrong, nan, red):
        assert not row.is_right
        assert row.ms is None
        assert "GB/s" not in row.line()
    assert "WRONG" in wrong.line()
    assert "WRONG" in nan.line()
    assert "tests" in red.line()


def test_a_baseline_that_fails_costs_no_other_number(monkeypatch: pytest.MonkeyPatch):
    def broken() -> torch.Tensor:
        raise NotImplementedError("not on this card")

    def compiler(work, **_):
        if work.keywords["is_hard"]:
            raise RuntimeError("no such kernel")
        return work

    def one(is_hard: bool) -> torch.Tensor:
        return torch.ones(4)

    def cases(device, sizes, only):
        for name, baselines in (
            ("some", (broken, partial(one, is_hard=True), partial(one, is_hard=False))),
            ("none", (broken,)),
        ):
            truth = (torch.ones(4),)
            yield benchmark.Case("linear", name, 1e6, lambda: (torch.ones(4),), lambda t=truth: t, (), baselines)

    monkeypatch.setattr(benchmark, "cases", cases)
    monkeypatch.setattr(torch, "compile", compiler)
    some, none = benchmark.run(CPU, benchmark.Sizes())
    assert some.torch_ms is not None
    assert some.compiled_ms is not None
    assert none.ms is not None
    assert none.torch_ms is none.compiled_ms is None


def test_every_baseline_is_compiled(monkeypatch: pytest.MonkeyPatch):
    """All that are `partial` are one function to the compiler, which gives up after so many of its versions."""
    graphs: list[object] = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda work, **options: compiler(work, backend=backend, **options))
    works = [partial(lambda x, n: x + n, n=n) for n in range(12)]
    for work in works:
        benchmark._compiled(work)(torch.ones(2))
    assert len(graphs) == len(works)
    torch.compiler.reset()


def test_weights_that_are_not_quantised_are_bf16():
    assert benchmark.random_experts(2, 64, 32, CPU, "bf16").down.data.dtype == torch.bfloat16


def test_what_is_measured_beside_the_experts_gives_the_same_numbers():
    generator = torch.Generator().manual_seed(0)

    def rand(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).bfloat16()

    gate_up, down = rand(5, 32, 64) / 8, rand(5, 64, 16) / 4
    x, share = rand(7, 64), torch.rand(7, 2, generator=generator)
    ids = torch.stack([torch.randperm(5, generator=generator)[:2] for _ in range(7)])
    truth = experts_reference(x.double(), ids, share.double(), pack_experts(gate_up, down, "bf16"))
    for baseline in (benchmark._every_expert, benchmark._grouped_experts):
        assert agreement.row_error(baseline(gate_up, down, x=x, ids=ids, share=share), truth) < 2e-2


def test_what_a_step_reads_from_memory_is_not_read_from_the_cache_twice():
    """As many copies as exceed the cache twice, none of what does so by itself, and nothing shared between them."""
    experts = benchmark.random_experts(2, 64, 32, CPU)
    rotated = measure.copies((experts, torch.ones(8)), 2 * experts.num_bytes)
    assert len(rotated) == 4
    assert rotated[0][0] is experts
    seen: set[int] = set()
    for packed, other in rotated:
        assert packed.gate_up.scale is not None
        assert torch.equal(packed.gate_up.data, experts.gate_up.data)
        assert packed.down.format == "int4"
        seen |= {packed.gate_up.data.data_ptr(), packed.gate_up.scale.data_ptr(), other.data_ptr()}
    assert len(seen) == 3 * 4
    assert len(measure.copies((torch.ones(100),), 199)) == 1
    assert len(measure.copies((torch.ones(1),), 2**30)) == measure.MAX_COPIES
    assert measure.copies((), 2**30) == [()]


def test_a_median_is_not_moved_by_one_slow_call(monkeypatch: pytest.MonkeyPatch):
    now = iter([0.0, 0.001, 1.0, 1.5, 2.0, 2.001])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(now))
    assert measure.time_ms(lambda: None, repeats=3, warm_up=0, is_cuda=False) == pytest.approx(1.0)

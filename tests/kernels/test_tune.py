"""The measuring of tiles, with operations and a clock that the test controls."""

from __future__ import annotations

import pytest
import torch
from lacuna_ls.kernels import benchmark, measure, tiles, tune

SHIPPED = {"rows": 6, "BM": 8, "BN": 64, "warps": 4, "stages": 4}
DEFAULTS = {"split": 1, "fold": 0}
CPU = torch.device("cpu")


def fake_jobs(monkeypatch: pytest.MonkeyPatch, run) -> None:
    def jobs(table, shape, device):
        entries = table["gate_up.int4"]
        yield tune._Job("gate_up.int4", 6, dict(entries[0]), entries, 0, run)

    monkeypatch.setattr(tune, "_jobs", jobs)


def clock_of(cost):
    """A clock that reads the cost of the tile which the measured work was bound to."""
    return lambda work: cost(work.args[0])


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


def test_a_gain_within_the_noise_keeps_the_shipped_tile(monkeypatch: pytest.MonkeyPatch):
    fake_jobs(monkeypatch, lambda tile: torch.ones(4))
    tuned = tune.tune(CPU, lambda *_: None, measured_by=clock_of(lambda tile: 0.99 if tile["stages"] == 5 else 1.0))
    assert tuned.winners[0].tile == tiles.shipped()["default"]["gate_up.int4"][0]


def test_when_the_time_is_over_the_rest_keeps_its_tiles(monkeypatch: pytest.MonkeyPatch):
    fake_jobs(monkeypatch, lambda tile: torch.ones(4))
    tuned = tune.tune(CPU, lambda *_: None, seconds=-1.0, measured_by=lambda work: 1.0)
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
    def cases(device, sizes, only):
        yield benchmark.Case("right", 1e6, lambda: torch.ones(4), lambda: torch.ones(4), lambda: torch.ones(4))
        yield benchmark.Case("wrong", 1e6, lambda: torch.ones(4), lambda: torch.full((4,), 1.1))
        yield benchmark.Case("never written", 1e6, lambda: torch.full((4,), torch.nan), lambda: torch.ones(4))

    monkeypatch.setattr(benchmark, "cases", cases)
    right, wrong, nan = benchmark.run(CPU, benchmark.Sizes(), with_compile=False)
    assert right.is_right
    assert "GB/s" in right.line()
    assert "torch" in right.line()
    for row in (wrong, nan):
        assert row.ms is None
        assert "WRONG" in row.line()
        assert "GB/s" not in row.line()


def test_a_median_is_not_moved_by_one_slow_call(monkeypatch: pytest.MonkeyPatch):
    now = iter([0.0, 0.001, 1.0, 1.5, 2.0, 2.001])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(now))
    assert measure.time_ms(lambda: None, repeats=3, warm_up=0, is_cuda=False) == pytest.approx(1.0)

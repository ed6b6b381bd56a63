"""The tile tables: complete, ordered, inherited as they say, and overridden by what the user measured."""

from __future__ import annotations

import pytest
import torch
from lacuna_ls.kernels import tiles

OPERATIONS = {
    "gate_up.int4", "gate_up.wide", "down.int4", "down.wide", "linear.int4", "linear.wide", "vocab", "attention",
    "router",
}  # fmt: skip

KEYS = {"vocab": {"BM", "BV", "BH", "stages"}, "attention": {"BM", "BS", "stages"}, "router": {"BM", "BE", "BH"}}


@pytest.fixture(autouse=True)
def _forget():
    yield
    tiles.use({})


@pytest.mark.parametrize("name", sorted(tiles.shipped()))
def test_every_table_is_complete_and_ordered(name: str):
    table = tiles.shipped()[name]
    assert set(table) == OPERATIONS
    for operation, entries in table.items():
        limits = [tile.get("rows", float("inf")) for tile in entries]
        assert limits == sorted(set(limits)), operation
        assert limits[-1] == float("inf"), operation
        wanted = KEYS.get(operation, {"BM", "BN", "stages"})
        more = {"split", "fold", "quarters", "pdl"} if "BN" in wanted else set[str]()
        for tile in entries:
            assert set(tile) - {"rows"} - more == wanted | {"warps"}
            assert all(value & (value - 1) == 0 for key, value in tile.items() if key.startswith("B") or key == "warps")


def test_the_4090_the_h200_and_everything_else_have_a_table():
    shipped = tiles.shipped()
    assert tiles.table_for("NVIDIA GeForce RTX 4090", (8, 9)) == shipped["8.9"]
    assert tiles.table_for("NVIDIA H100 PCIe", (9, 0)) == shipped["9.0"] != shipped["8.9"]
    assert tiles.table_for("NVIDIA H200", (9, 0)) == shipped["NVIDIA H200"]
    assert tiles.table_for("NVIDIA L4", (8, 9)) == shipped["8.9"]
    assert tiles.table_for("a card of the future", (12, 0)) == shipped["default"]


def test_a_size_gets_the_first_tile_that_serves_it():
    cpu = torch.device("cpu")
    entries = tiles.shipped()["default"]["gate_up.int4"]
    assert tiles.pick("gate_up.int4", 1, cpu) is entries[0]
    assert tiles.pick("gate_up.int4", entries[0]["rows"], cpu) is entries[0]
    assert tiles.pick("gate_up.int4", entries[0]["rows"] + 0.1, cpu) is entries[1]
    assert tiles.pick("gate_up.int4", 1e9, cpu) is entries[-1]


def test_measurements_go_over_the_shipped_table_of_their_card_only():
    mine = [{"BM": 16, "BN": 16, "warps": 1, "stages": 2}]
    tiles.use({"NVIDIA L4": {"linear.int4": mine}})
    assert tiles.table_for("NVIDIA L4", (8, 9))["linear.int4"] == mine
    assert tiles.table_for("NVIDIA L4", (8, 9))["vocab"] == tiles.shipped()["8.9"]["vocab"]
    assert tiles.table_for("NVIDIA GeForce RTX 4090", (8, 9))["linear.int4"] != mine


@pytest.mark.parametrize(
    "table",
    [
        pytest.param({"convolution": [{"BM": 1}]}, id="an operation of another version"),
        pytest.param({"vocab": []}, id="no candidates"),
        pytest.param({"vocab": [{"BM": 16, "rows": 4}]}, id="nothing for many rows"),
    ],
)
def test_a_broken_measurement_is_refused_whole(table):
    with pytest.raises(ValueError, match="lacuna tune"):
        tiles.use({"NVIDIA L4": table})
    assert tiles.table_for("NVIDIA L4", (8, 9)) == tiles.shipped()["8.9"]

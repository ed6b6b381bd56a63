"""The tile tables: complete, ordered, inherited as they say, and overridden by what the user measured."""

from __future__ import annotations

import pytest
import torch
from lacuna_ls.kernels import tiles

OPERATIONS = {
    "gate_up.int4", "gate_up.wide", "down.int4", "down.wide", "linear.int4", "linear.wide", "vocab", "attention",
    "router",
}  # fmt: skip


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
        assert all(tiles.is_tile(operation, tile) for tile in entries), operation


PRODUCT = {"BM": 8, "BN": 64, "warps": 4, "stages": 4}


@pytest.mark.parametrize(
    ("operation", "tile", "is_one"),
    [
        pytest.param("linear.wide", PRODUCT, True, id="what every packed product needs"),
        pytest.param(
            "down.int4", {**PRODUCT, "rows": 1.5, "fold": 0, "split": 3, "quarters": 2}, True, id="and may have"
        ),
        pytest.param(
            "vocab", {"BM": 16, "BV": 64, "BH": 64, "warps": 16, "stages": 2, "rows": 4}, True, id="vocabulary"
        ),
        pytest.param(
            "attention", {"BM": 16, "BS": 16, "warps": 4, "stages": 2, "fold": 1}, False, id="a product's key"
        ),
        pytest.param("router", {"BM": 16, "BE": 64, "BH": 128, "warps": 4, "stages": 2}, False, id="an unknown key"),
        pytest.param("linear.int4", {"BM": 8, "BN": 64, "warps": 4, "split": 2}, False, id="a key is missing"),
        pytest.param("linear.int4", {**PRODUCT, "BN": 48}, False, id="no power of two"),
        pytest.param("linear.int4", {**PRODUCT, "quarters": 3}, False, id="three quarters leave one out"),
        pytest.param("linear.int4", {**PRODUCT, "quarters": 8}, False, id="more quarters than there are"),
        pytest.param("linear.int4", {**PRODUCT, "fold": 2}, False, id="neither folded nor not"),
        pytest.param("linear.int4", {**PRODUCT, "split": 0}, False, id="in no parts"),
        pytest.param("linear.int4", {**PRODUCT, "warps": 4.0}, False, id="a fraction"),
        pytest.param("linear.int4", {**PRODUCT, "rows": float("nan")}, False, id="a limit that no size is below"),
        pytest.param("linear.int4", {**PRODUCT, "stages": True}, False, id="a truth value"),
        pytest.param("convolution", PRODUCT, False, id="an operation of another version"),
        pytest.param("linear.int4", [PRODUCT], False, id="a list"),
    ],
)
def test_what_a_tile_is(operation: str, tile: object, is_one: bool):
    assert tiles.is_tile(operation, tile) is is_one


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

"""The byte model against the published shape of the released model and figures worked out by hand."""

from __future__ import annotations

import pytest
from lacuna_ls.kernels.roofline import CARDS, Bits, Card, Shape, step_bytes, step_ms, step_table


def test_parameters_are_the_released_models():
    shape = Shape()
    assert shape.expert_weights * shape.experts * shape.layers == pytest.approx(22.84e9, rel=1e-3)
    assert shape.attention_weights == pytest.approx(1.11e9, rel=1e-2)
    # one dense MLP a layer, and the self-conditioning's
    assert shape.dense_weights == pytest.approx(0.535e9 * 31 / 30, rel=1e-2)
    assert shape.vocab * shape.hidden == pytest.approx(0.738e9, rel=1e-3)


@pytest.mark.parametrize(
    ("rows", "touched", "milliseconds"),
    [
        pytest.param(8, 52, 8.3, id="a line"),
        pytest.param(16, 82, 11.2, id="a few lines"),
        pytest.param(64, 126, 15.3, id="the usual canvas: nearly every expert"),
        pytest.param(128, 128, 15.5, id="all experts"),
    ],
)
def test_floor_of_a_4090_at_its_datasheet_bandwidth(rows: int, touched: int, milliseconds: float):
    shape = Shape()
    assert round(shape.touched(rows)) == touched
    card = Card("RTX 4090", 1008, 165.2, 128, 2.52, reach=1.0)
    assert step_ms(rows, 4096, card, shape, Bits())[0] == pytest.approx(milliseconds, rel=0.01)


def test_memory_is_the_floor_up_to_128_rows_and_arithmetic_at_256_on_a_4090():
    card, shape = CARDS["NVIDIA GeForce RTX 4090"], Shape()
    for rows in (8, 16, 32, 64, 128):
        memory, compute, decode = step_ms(rows, 4096, card, shape, Bits())
        assert memory > compute
        assert memory > 5 * decode
    memory, compute, _ = step_ms(256, 4096, card, shape, Bits())
    assert compute > memory


def test_a_window_bounds_the_cache_that_is_read():
    shape = Shape()
    short, long = (step_bytes(64, cached, shape, Bits())["attention"] for cached in (1023, 8192))
    sliding = 25 * 8 * 256 * 4 * 1023
    assert short == sliding + 5 * 2 * 512 * 4 * 1023
    assert long == sliding + 5 * 2 * 512 * 4 * 8192


def test_the_table_names_every_card():
    lines = step_table()
    assert len(lines) == 2 + 6
    assert all(card.name in lines[1] for card in CARDS.values())

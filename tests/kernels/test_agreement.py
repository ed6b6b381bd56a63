"""When an answer counts as right: row by row, part by part, and choices as far as fp32 tells them apart."""

from __future__ import annotations

import pytest
import torch
from lacuna_ls.kernels import agreement
from lacuna_ls.kernels.agreement import Scores


def test_one_wrong_element_of_a_large_tensor_is_seen():
    truth = torch.randn(9, 2, 2816, generator=torch.Generator().manual_seed(0)).double()
    got = truth.bfloat16()
    assert agreement.row_error(got, truth) < 2e-3
    # over the whole tensor this would be 3.5e-3, and pass
    place = int(truth[3, 1].abs().argmax())
    got[3, 1, place] = 0.0
    assert agreement.row_error(got, truth) > 3e-2


@pytest.mark.parametrize(
    ("got", "error"),
    [
        pytest.param([[1.0, 2.0], [0.0, 0.0]], 0.0, id="right, a row of nought too"),
        pytest.param([[1.0, 2.0], [0.0, 1e-9]], 1e21, id="anything where nothing belongs"),
        pytest.param([[1.0, 2.0]], float("inf"), id="another shape"),
        pytest.param([[1.0, 2.0], [0.0, float("nan")]], float("inf"), id="never written"),
    ],
)
def test_the_error_of_rows(got: list[list[float]], error: float):
    found = agreement.row_error(torch.tensor(got), torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    assert found == pytest.approx(error)


SCORES = Scores(torch.tensor([[5.0, 1.0, 5.0 - 1e-6, 3.0], [0.0, 2.0, 1.0, 1.5]]))


@pytest.mark.parametrize(
    ("ids", "wrong"),
    [
        pytest.param([[0, 2], [1, 3]], 0.0, id="the best, best first"),
        pytest.param([[2, 0], [1, 3]], 0.0, id="two that fp32 does not tell apart, in either order"),
        pytest.param([[0, 2], [3, 1]], 0.5, id="the order of others counts"),
        pytest.param([[0, 0], [1, 3]], 0.5, id="one of the two twice"),
        pytest.param([[0, 3], [1, 2]], 1.0, id="not the best"),
        pytest.param([[0, 4], [1, 3]], 1.0, id="no such id"),
        pytest.param([[0, -1], [1, 3]], 1.0, id="a negative id"),
        pytest.param([2, 1], 0.0, id="one for each row"),
    ],
)
def test_choices_are_judged_by_their_scores(ids: list[object], wrong: float):
    assert agreement.wrong_choices(torch.tensor(ids), SCORES) == wrong


def test_every_part_of_an_answer_counts():
    choices, numbers = torch.tensor([0, 1]), torch.ones(3, 4)
    truth = (SCORES, torch.ones(3, 4))
    assert agreement.judge((choices, numbers), truth) == (0.0, True)
    assert agreement.judge((choices.flip(0), numbers), truth) == (1.0, False)
    assert not agreement.judge((choices, numbers * 1.001), truth)[1]
    # what bf16 rounds away is not wrong
    assert agreement.judge((choices, (numbers * 1.001).bfloat16()), truth)[1]
    assert not agreement.judge((choices,), truth)[1]

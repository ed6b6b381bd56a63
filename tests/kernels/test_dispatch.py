"""One dispatch point per operation: who gets which path, and that the truth needs no Triton."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from lacuna_ls.kernels import dispatch as ops
from lacuna_ls.kernels.experts import pack_experts
from lacuna_ls.kernels.packing import pack_weights


def test_the_cpu_gets_the_truth_and_an_argument_overrides_it():
    assert ops.choose(torch.zeros(1), None) == "reference"
    assert ops.choose(torch.zeros(1), "triton") == "triton"


class OnCuda:
    """What `choose` looks at of a tensor on a GPU."""

    is_cuda = True


def test_cuda_gets_triton_unless_the_environment_or_the_system_says_no(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ops, "has_triton", lambda: True)
    assert ops.choose(OnCuda(), None) == "triton"  # type: ignore[arg-type]
    monkeypatch.setenv("LACUNA_KERNELS", "reference")
    assert ops.choose(OnCuda(), None) == "reference"  # type: ignore[arg-type]
    monkeypatch.delenv("LACUNA_KERNELS")
    monkeypatch.setattr(ops, "has_triton", lambda: False)
    assert ops.choose(OnCuda(), None) == "reference"  # type: ignore[arg-type]


def test_a_path_that_does_not_exist_is_told_once_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(ops, "has_triton", lambda: True)
    monkeypatch.setenv("LACUNA_KERNELS", "fastest")
    ops._wants_reference.cache_clear()
    for _ in range(3):
        assert ops.choose(OnCuda(), None) == "triton"  # type: ignore[arg-type]
        assert ops.rms_norm(torch.ones(2, 8), None, 1e-6).shape == (2, 8)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "LACUNA_KERNELS is 'fastest'" in caplog.text


def test_every_operation_works_where_triton_cannot_be_imported():
    program = """
import sys
sys.modules["triton"] = None
import torch
from lacuna_ls.kernels import attention, dispatch as ops, experts, packing, roofline, tiles, tune
x, ids, share = torch.randn(3, 64), torch.tensor([[0, 1]] * 3), torch.rand(3, 2)
packed = experts.pack_experts(torch.randn(2, 32, 64), torch.randn(2, 64, 16))
assert ops.experts(x, ids, share, packed).shape == (3, 64)
assert ops.expert_slots(x, ids, packed).shape == (3, 2, 64)
assert ops.linear(x, packing.pack_weights(torch.randn(5, 64))).shape == (3, 5)
assert ops.vocab_stats(x, torch.randn(9, 64)).top_ids.shape == (3, 8)
w = torch.ones(64)
ops.rms_norm(x, w, 1e-6)
ops.attention_glue(x, x[None], w, w, w, w, 1e-6)
ops.mlp_glue(x, x[None], torch.randn(3, 2, 64), share, w, w, w, torch.ones(1), w, 1e-6)
ops.soft_embedding(ids, share, torch.randn(9, 64), 8.0)
ops.gated_gelu(x[None], x.dtype)
assert ops.linear_parts(x, packing.pack_weights(torch.randn(5, 64))).shape == (1, 3, 5)
ops.router(x, torch.randn(5, 64), torch.ones(5), 2)
rope = (torch.ones(3, 16), torch.zeros(3, 16))
q, k, v = ops.qkv_norm_rotate(torch.randn(1, 3, 4, 16), 2, 1, w[:16], w[:16], rope, 1e-6)
cache = torch.randn(1, 5, 16)
ops.canvas_attention(q, k, v, cache, cache, attention.row_ranges(5, 0, [3], None))
assert "triton" not in {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


PACKED = pack_experts(torch.zeros(2, 32, 64), torch.zeros(2, 64, 16))
ROWS = torch.zeros(3, 64)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(
            lambda: ops.experts(ROWS, torch.zeros(3, 2).long(), torch.zeros(3, 1), PACKED), id="weights for one k"
        ),
        pytest.param(
            lambda: ops.experts(ROWS[:, :32], torch.zeros(3, 2).long(), torch.zeros(3, 2), PACKED), id="another H"
        ),
        pytest.param(lambda: ops.expert_slots(ROWS, torch.zeros(4, 2).long(), PACKED), id="ids for more rows"),
        pytest.param(lambda: ops.linear(ROWS, pack_weights(torch.zeros(4, 65))), id="another K"),
        pytest.param(lambda: ops.linear(ROWS, pack_weights(torch.zeros(2, 4, 64))), id="a stack of two matrices"),
        pytest.param(lambda: ops.linear_parts(ROWS, pack_weights(torch.zeros(4, 65))), id="another K, in parts"),
        pytest.param(lambda: ops.vocab_stats(ROWS, torch.zeros(9, 64), temperature=0.0), id="no temperature"),
        pytest.param(lambda: ops.router(ROWS, torch.zeros(4, 64), torch.ones(4), 5), id="more experts than there are"),
        pytest.param(lambda: ops.gated_gelu(torch.zeros(1, 3, 7), torch.float32), id="halves of an odd width"),
        pytest.param(
            lambda: ops.vocab_stats(ROWS, torch.zeros(9, 64), num_top=10), id="a list longer than the vocabulary"
        ),
        pytest.param(
            lambda: ops.canvas_attention(*[torch.zeros(3, 2, 8)] * 3, *[torch.zeros(2, 5, 8)] * 2, torch.zeros(2, 4)),
            id="ranges for two rows of three",
        ),
        pytest.param(
            lambda: ops.qkv_norm_rotate(torch.zeros(1, 3, 5, 8), 2, 1, ROWS, ROWS, (ROWS, ROWS), 1e-6),
            id="heads that do not add up",
        ),
    ],
)
def test_misuse_is_a_value_error(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        wrong()

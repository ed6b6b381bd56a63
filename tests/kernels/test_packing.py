"""Weight formats: what is packed comes out again, and quantising costs what it should."""

from __future__ import annotations

import pytest
import torch
from lacuna_ls.kernels.experts import experts_reference, interleave_gate_up, pack_experts, unpack_experts
from lacuna_ls.kernels.packing import pack, pack_weights, quantize, unpack, unpack_codes

SHAPES = [
    pytest.param(3, 37, 64, id="rows that fill no panel"),
    pytest.param(1, 16, 704, id="whole blocks of 64 only: the released model's down projection"),
    pytest.param(2, 5, 97, id="prime columns: padded block and group"),
    pytest.param(2, 48, 256, id="whole blocks of 128"),
]


@pytest.mark.parametrize(("E", "N", "K"), SHAPES)
@pytest.mark.parametrize(
    ("format", "group_size"),
    [
        pytest.param("int4", 32, id="int4 g32: the published checkpoint's"),
        pytest.param("int4", 64, id="int4 g64: ours"),
        pytest.param("int4", 128, id="int4 g128: a group over two blocks"),
        pytest.param("int4", 0, id="int4 with a scale per row"),
        pytest.param("int8", 64, id="int8 g64: the dense layers"),
        pytest.param("int8", 0, id="int8 with a scale per row"),
        pytest.param("fp8", 0, id="fp8"),
    ],
)
def test_codes_and_scales_survive_packing(E: int, N: int, K: int, format: str, group_size: int):
    weight = torch.randn(E, N, K, generator=torch.Generator().manual_seed(N))
    packed = pack_weights(weight, format, group_size)  # type: ignore[arg-type]
    for e in range(E):
        codes, scale = quantize(weight[e], format, group_size)  # type: ignore[arg-type]
        assert torch.equal(unpack_codes(packed, e).float(), codes.float())
        spread = scale.float().repeat_interleave(group_size or K, dim=1)[:, :K]
        assert torch.equal(unpack(packed, e), codes.float() * spread)


@pytest.mark.parametrize(
    ("format", "group_size", "most"),
    [
        pytest.param("int4", 64, 0.10, id="int4: a 15th of the range of a group of Gaussians"),
        pytest.param("int8", 64, 0.007, id="int8: 17 times finer"),
        pytest.param("fp8", 0, 0.03, id="fp8: three bits of mantissa"),
    ],
)
def test_quantising_costs_what_it_should(format: str, group_size: int, most: float):
    weight = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0))
    error = (unpack(pack_weights(weight, format, group_size), 0) - weight).norm() / weight.norm()  # type: ignore[arg-type]
    assert float(error) < most


def test_int4_scale_search_beats_the_plain_scale():
    groups = torch.randn(32, 64 * 40, generator=torch.Generator().manual_seed(0))
    codes, scale = quantize(groups, "int4", 64)
    best = (codes.float() * scale.float().repeat_interleave(64, 1) - groups).norm()
    plain_scale = (groups.view(32, 40, 64).abs().amax(-1) / 7).bfloat16().float().repeat_interleave(64, 1)
    plain = ((groups / plain_scale).round().clamp(-8, 7) * plain_scale - groups).norm()
    assert best < 0.97 * plain


def test_zero_weights_stay_zero():
    for format in ("int4", "int8", "fp8"):
        assert not bool(unpack(pack_weights(torch.zeros(16, 64), format), 0).any())  # type: ignore[arg-type]


def test_a_pack_takes_the_bytes_it_says():
    packed = pack_weights(torch.randn(1408, 2816), "int4", 64)
    assert packed.num_bytes == 1408 * 2816 * (4 + 16 / 64) / 8


@pytest.mark.parametrize("format", ["bf16", "int4", "int8", "fp8"])
def test_experts_survive_packing(format: str):
    generator = torch.Generator().manual_seed(3)
    gate_up, down = torch.randn(4, 2 * 24, 64, generator=generator), torch.randn(4, 64, 24, generator=generator)
    packed = pack_experts(gate_up, down, format)  # type: ignore[arg-type]
    apart = [pack_weights(weight, format) for weight in (gate_up, down)]  # type: ignore[arg-type]
    for e in range(4):
        gate, up, back = unpack_experts(packed, e)
        assert torch.equal(torch.cat((gate, up)), unpack(apart[0], e))
        assert torch.equal(back, unpack(apart[1], e))


def test_codes_of_a_published_checkpoint_pack_unchanged():
    """compressed-tensors: codes in [-8, 7] and bf16 scales of groups of 32, never requantised."""
    generator = torch.Generator().manual_seed(4)
    codes = torch.randint(-8, 8, (2, 64, 96), generator=generator, dtype=torch.int8)
    scale = torch.rand(2, 64, 3, generator=generator).bfloat16()
    packed = pack(codes, scale, "int4", 32)
    assert torch.equal(unpack(packed, 1), codes[1].float() * scale[1].float().repeat_interleave(32, 1))


def test_gate_and_up_panels_alternate():
    rows = torch.arange(2 * 20, dtype=torch.float32)[None, :, None]
    order = interleave_gate_up(rows)[0, :, 0].tolist()
    assert order[:16] == list(range(16))
    assert order[16:32] == list(range(20, 36))
    assert order[32:36] == [16, 17, 18, 19]
    assert order[48:52] == [36, 37, 38, 39]
    assert len(order) == 64


def test_the_truth_of_experts_is_the_formula():
    generator = torch.Generator().manual_seed(5)
    gate_up, down = torch.randn(3, 2 * 8, 16, generator=generator), torch.randn(3, 16, 8, generator=generator)
    x, ids = torch.randn(4, 16, generator=generator).double(), torch.tensor([[0, 2], [1, 0], [2, 1], [0, 1]])
    weights = torch.rand(4, 2, generator=generator).double()
    got = experts_reference(x, ids, weights, pack_experts(gate_up, down, "bf16"))
    for t in range(4):
        want = torch.zeros(16, dtype=torch.float64)
        for k in range(2):
            gate, up = (gate_up[ids[t, k]].double() @ x[t]).chunk(2)
            want += weights[t, k] * (
                down[ids[t, k]].double() @ (torch.nn.functional.gelu(gate, approximate="tanh") * up)
            )
        assert torch.allclose(got[t], want)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda: pack_weights(torch.zeros(4, 64), "int3"), id="no such format"),  # type: ignore[arg-type]
        pytest.param(lambda: pack_weights(torch.zeros(4, 64), "int4", 48), id="no such group size"),
        pytest.param(
            lambda: pack(torch.zeros(1, 4, 64).char(), torch.zeros(1, 4, 2), "int4", 64), id="too many scales"
        ),
        pytest.param(lambda: pack(torch.zeros(4, 64).char(), None, "int4", 64), id="not a stack"),
        pytest.param(lambda: pack_experts(torch.zeros(2, 8, 16), torch.zeros(2, 16, 5)), id="down of another width"),
        pytest.param(lambda: quantize(torch.zeros(4, 64), "bf16", 0), id="bf16 has no codes"),
    ],
)
def test_misuse_is_a_value_error(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        wrong()

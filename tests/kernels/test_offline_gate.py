"""Every shipped tile, compiled for its card without one: shared memory, spills, instructions, 16-byte weight loads; and
every launch that the full-size engine makes.
"""

from __future__ import annotations

import pytest

kernel_gate = pytest.importorskip("kernel_gate", reason="Triton has no build for this system")
full_size = pytest.importorskip("full_size", reason="Triton has no build for this system")

FORMATS = ("int4 g32", "int4 g64", "int4 g128", "int8 g64", "fp8", "bf16")
PRODUCTS = {f"{op}.{format}" for op in ("gate_up", "down", "linear") for format in FORMATS}
PRODUCTS |= {f"linear.{format} K 2112" for format in FORMATS}
PRODUCTS |= {f"{op}.int8 {group}" for op in ("gate_up", "down") for group in ("g32", "g128")}
"""Whatever `lacuna quantize` writes, and both kinds of blocks of a dense layer."""
OTHERS = {"router", "vocab pass", "attention.256", "attention.512"}


CARDS = pytest.mark.parametrize(
    "arch",
    [
        pytest.param(89, id="sm_89: the RTX 4090 that the tiles are chosen for"),
        pytest.param(90, id="sm_90: the H200 that benchmarks run on"),
    ],
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@CARDS
def test_every_shipped_tile_fits_its_card(arch: int, tmp_path, monkeypatch: pytest.MonkeyPatch):
    # nothing stale, and nothing left in the developer's cache
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rows = kernel_gate.gate(arch)
    # shown with -rA or -s, and whenever something is wrong
    assert {row.name for row in rows} >= PRODUCTS | OTHERS
    assert not [row.line() for row in rows if row.problems]


@CARDS
def test_parts_are_added_without_waiting_for_each_other(arch: int, tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Unrolled, so that all parts are on their way at once: a loop would wait for memory once a part."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tile = {"BM": 16, "BN": 64, "warps": 4, "stages": 3, "split": 4}
    launches = kernel_gate.captured(kernel_gate.product("linear", tile, "int8", 64), arch)
    kernel, args, kwargs = launches[-1]
    assert kernel.__name__ == "add_parts"
    # the one jump back is the endless loop behind every kernel's end
    assert kernel_gate.triton_offline.compile_launch(kernel, args, kwargs, arch).loop_instructions() <= 1


@pytest.mark.slow
@CARDS
def test_everything_compiles_for_a_single_row(arch: int, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert kernel_gate.one_row(arch) == []


@pytest.mark.slow
@CARDS
def test_every_launch_of_the_full_size_engine_fits_its_card(arch: int, tmp_path, monkeypatch: pytest.MonkeyPatch):
    """With the numbers of rows, splits and parts that it really has; what the tiles above have shown is left out."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with full_size.sizes_of_a_card(arch) as launches:
        full_size.run_every_size(full_size.released_model(is_whole=False))
    new = full_size.new_to_the_gate(launches, arch)
    names = {launch.kernel.__name__ for launch in new}
    assert names >= {"packed_product", "attention_kernel", "merge_kernel", "route_kernel", "vocab_merge_kernel"}
    found = [(launch, kernel_gate.wanted("", arch, launch.compiled(arch))) for launch in new]
    assert not [(launch.key, problems) for launch, problems in found if problems]

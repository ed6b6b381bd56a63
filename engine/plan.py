"""The memory plan: what a model will take on the device, from its config alone and before anything is allocated.

`lacuna doctor --model DIR` prints it: `plan_table` gives the lines, `plan_folder` the numbers. The sums of weights are
exact (tests compare them with models that are built); workspace is an upper bound by the shapes of kernels/. Sizes are
in bytes; GB are 10^9.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import threads
from .config import ModelConfig
from .errors import DeviceError
from .formats import Label, Part, Scheme, parts, source_format
from .life import MIN_KV_TOKENS
from .packed import default_scheme, is_packed, read_manifest, scheme_of

MAX_ROWS = 512
"""Rows of the largest forward: a prefill chunk with the canvases of its first step."""

CONTEXT_BYTES = 500_000_000
"""CUDA context, loaded kernels and cuBLAS workspace; no allocation of ours, but gone all the same."""

OTHERWISE = "use a device with 24 GB, the embedded model, or a vLLM server"

KV_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All sizes in bytes. free: what the device has to give, or None when that is unknown. cap: the user's limit, or
    None.
    """

    weights: dict[Label, int]
    kv_token: int
    kv_tokens: int
    workspace: int
    context: int
    free: int | None
    cap: int | None
    formats: dict[Label, str]

    @property
    def weights_total(self) -> int:
        return sum(self.weights.values())

    @property
    def kv(self) -> int:
        return self.kv_token * self.kv_tokens

    @property
    def total(self) -> int:
        return self.weights_total + self.kv + self.workspace + self.context

    @property
    def available(self) -> int | None:
        limits = [limit for limit in (self.free, self.cap) if limit is not None]
        return min(limits) if limits else None

    @property
    def fits(self) -> bool:
        return self.available is None or self.total <= self.available

    @property
    def most_kv_tokens(self) -> int | None:
        """The largest token budget that fits, or None when nothing limits it; 0 when the weights alone are too much."""
        if self.available is None:
            return None
        return max(0, self.available - (self.total - self.kv)) // self.kv_token

    def advice(self) -> str:
        """What to do when it does not fit; empty when it does."""
        if self.fits or self.available is None:
            return ""
        short = (self.total - self.available) / 1e9
        tokens = self.most_kv_tokens or 0
        which, more = "the free memory of the device", "free memory on the device"
        if self.cap is not None and self.available == self.cap:
            which, more = "the cap", "raise the cap (engine.vramCapGib)"
            if self.free is not None and self.total > self.free:
                # a higher one would only run into the next limit
                more += " and free memory on the device"
        if tokens >= MIN_KV_TOKENS:
            fitting = tokens // 1024 * 1024
            return f"{short:.1f} GB over {which}; set the KV budget to {fitting} tokens, or {more}"
        if self.formats["experts"] != "int4":
            return f"{short:.1f} GB over {which}; run `lacuna quantize` with --experts int4 and load that folder"
        return f"{short:.1f} GB over {which}; {more}, or {OTHERWISE}"

    def check(self) -> None:
        """Raises: DeviceError with the advice when it does not fit."""
        if not self.fits and self.available is not None:
            wanted, got = self.total / 1e9, self.available / 1e9
            raise DeviceError(f"the model needs {wanted:.1f} GB and {got:.1f} GB are to be had: {self.advice()}")


def plan(
    config: ModelConfig,
    scheme: Scheme,
    kv_tokens: int = KV_TOKENS,
    free: int | None = None,
    cap: int | None = None,
    found: list[Part] | None = None,
) -> MemoryPlan:
    """found: the parts as they are stored, where a folder is packed already; otherwise they follow from the scheme."""
    weights: dict[Label, int] = {}
    formats: dict[Label, str] = {}
    for part in found or parts(config, scheme):
        weights[part.label] = weights.get(part.label, 0) + part.num_bytes(scheme.dtype)
        stored = _dtype_name(scheme.dtype) if part.kind == "plain" or part.format == "bf16" else part.format
        formats.setdefault(part.label, f"{stored} g{part.group_size}" if part.group_size else stored)
    formats["experts"] = formats["experts"].split()[0]
    size = scheme.dtype.itemsize
    kv_token = sum(2 * spec.num_kv_heads * spec.head_dim * size for spec in config.layers)
    workspace = workspace_bytes(config, MAX_ROWS, size)
    return MemoryPlan(weights, kv_token, kv_tokens, workspace, CONTEXT_BYTES, free, cap, formats)


def workspace_bytes(config: ModelConfig, num_rows: int, itemsize: int) -> int:
    """The largest sum of a layer's temporaries, and what the vocabulary pass and the sampler keep, for num_rows
    rows.
    """
    T, H, K = num_rows, config.hidden_size, config.top_k
    widest = max((config.num_heads + 2 * s.num_kv_heads) * s.head_dim for s in config.layers)
    heads = max(config.num_heads * s.head_dim for s in config.layers)
    stream = 6 * T * H * itemsize
    # qkv before and after the norms, and attention in up to two fp32 splits at this many rows
    attention = T * (2 * widest + 2 * heads) * itemsize + 2 * T * heads * 4
    experts = T * K * (config.expert_size + H) * itemsize + 3 * T * config.intermediate_size * itemsize
    # logits of a segment of the table (kernels/vocab_triton.py), and six numbers of every row and 64 tokens
    vocabulary = min(T * config.vocab_size, 2**25) * 4 + T * -(-config.vocab_size // 64) * 6 * 4
    return stream + max(attention, experts) + vocabulary


def plan_folder(
    source: Path,
    free: int | None = None,
    cap: int | None = None,
    kv_tokens: int = KV_TOKENS,
    scheme: Scheme | None = None,
) -> MemoryPlan:
    """The plan of a model folder, packed or not. Reads config.json and the manifest only. Raises: ModelError and its
    kinds.
    """
    config = ModelConfig.load(source / "config.json")
    if not is_packed(source):
        return plan(config, scheme or default_scheme(source), kv_tokens, free, cap)
    manifest = read_manifest(source)
    stored = scheme_of(manifest)
    found = [_as_stored(part, manifest["parts"].get(part.name, {})) for part in parts(config, stored)]
    return plan(config, stored, kv_tokens, free, cap, found=found)


def host_bytes(source: Path) -> int:
    """What a model folder takes at most of this machine's memory, where no GPU is used.

    Packed and quantised folders run as they are planned; a float folder is read in fp32. Raises: as plan_folder.
    """
    config = ModelConfig.load(source / "config.json")
    if is_packed(source) or source_format(source) != "float":
        return plan_folder(source).total
    return 4 * total_parameters(parts(config, Scheme()))


def check_host(source: Path) -> None:
    """Raises: DeviceError for a folder that would take over half of this machine's memory; ModelError and its kinds."""
    wanted, memory = host_bytes(source), memory_bytes()
    if wanted > memory / 2:
        raise DeviceError(
            f"without a GPU the model needs {wanted / 1e9:.1f} GB of memory and this machine has {memory / 1e9:.1f} "
            f"in all; {OTHERWISE}"
        )


def memory_bytes() -> float:
    """The machine's memory, or its container's; infinite where the system does not say."""
    found = float("inf")
    with suppress(AttributeError, ValueError, OSError):
        found = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        # one version of cgroups or the other, or none; "max", or more than there is, where there is no limit
        with suppress(ValueError, OSError):
            found = min(found, int((threads.CGROUPS / name).read_text(encoding="ascii")))
    return found


def plan_table(found: MemoryPlan) -> list[tuple[str, str]]:
    """The plan as lines (name, text) for people, the last one with what is to be had where that is known."""
    lines: list[tuple[str, str]] = [
        (label, f"{size / 1e9:6.2f} GB  {found.formats[label]}") for label, size in found.weights.items()
    ]
    lines += [
        ("weights", f"{found.weights_total / 1e9:6.2f} GB"),
        ("KV cache", f"{found.kv / 1e9:6.2f} GB  {found.kv_tokens} tokens, {found.kv_token / 1e3:.0f} MB per 1000"),
        ("workspace", f"{found.workspace / 1e9:6.2f} GB  at {MAX_ROWS} rows"),
        ("CUDA", f"{found.context / 1e9:6.2f} GB  context and libraries"),
        ("total", f"{found.total / 1e9:6.2f} GB"),
    ]
    if found.available is not None:
        which = "the cap" if found.available == found.cap else "free on the GPU"
        lines.append(("to be had", f"{found.available / 1e9:6.2f} GB  {which}"))
    return lines


def _as_stored(part: Part, entry: dict[str, Any]) -> Part:
    if part.kind == "plain" or "format" not in entry:
        return part
    return replace(part, format=entry["format"], group_size=entry["group_size"])


def _dtype_name(dtype: torch.dtype) -> str:
    return {"bfloat16": "bf16", "float32": "fp32", "float16": "fp16"}.get(str(dtype).removeprefix("torch."), str(dtype))


def total_parameters(found: Sequence[Part]) -> int:
    """Weights of the model, without padding and scales."""
    return sum(math.prod(shape) for part in found for shape in part.shapes)

"""What the packed model is made of, and how the tensors of a checkpoint become it, one piece at a time.

`parts` lists every packed matrix and plain tensor of a model from its config alone; `stream` reads a folder file by
file and yields each part as soon as its last piece was read, quantised on the way. So the host never holds more than
the parts that are not finished yet and the file being read. Read are bf16 (or any float) folders and, weight-only,
compressed-tensors' pack-quantized INT4 and nvfp4-pack-quantized. Knows no device's memory and writes nothing.

Codes of a published INT4 checkpoint are taken over exactly, its scales as bf16, which they are; where they are wider
they are rounded, and the log says so. NVFP4 has sixteen columns a scale and fifteen values, which no kernel here
streams, so its weights are dequantised exactly and quantised again by the scheme (see ARCHITECTURE.md). One of these
formats a checkpoint: with two, some weights would be read as what they are not.
Source: compressed-tensors 0.20, compressors/pack_quantized/helpers.py and nvfp4/helpers.py (the byte orders).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..kernels.experts import interleave_gate_up
from ..kernels.packing import GROUP_SIZES, PANEL, Format, PackedMatrix, block_k_of, pack, quantize
from .checkpoint import check_float, copied_name, foreign_error, missing_error, our_name, their_name
from .config import ModelConfig
from .errors import CheckpointError, ConfigError
from .modelfile import read_json
from .shards import Shards, check_finite

logger = logging.getLogger(__name__)

SourceFormat = Literal["float", "pack-quantized", "nvfp4-pack-quantized"]
Label = Literal["experts", "attention", "dense", "embedding", "norms and router"]
Progress = Callable[[int, int, str], None]
"""(bytes read, bytes in all, name of the part that was finished last)"""

COMPANIONS = (
    ".weight_scale", ".weight_shape", ".weight_global_scale", ".input_global_scale", ".input_scale",
)  # fmt: skip
"""Suffixes that belong to a `.weight_packed` and are read with it, or not at all (the input scales: weight-only).
Without one they are an error: they would scale a weight that is read as if it were whole.
"""

MODELOPT = "hf_quant_config.json"

UNSUPPORTED = (".weight_zero_point", ".weight_g_idx")

ONE_EXPERT = re.compile(r"layers\.(\d+)\.experts\.(\d+)\.(gate|up|down)_proj\.weight")

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The values of a four-bit float, by its low three bits; the fourth is the sign."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How weights are held. experts, dense: formats of kernels/packing.py; dense: attention, dense MLP,
    self-conditioning.

    dtype: of everything that stays as it is (embedding, norms, router). The default is the 24 GB card's: 15.4 GB.
    """

    experts: Format = "int4"
    experts_group: int = 64
    dense: Format = "int8"
    dense_group: int = 64
    dtype: torch.dtype = torch.bfloat16


EXACT = Scheme(experts="bf16", experts_group=0, dense="bf16", dense_group=0, dtype=torch.float32)
"""Nothing is rounded: the truth of tests."""


@dataclass(frozen=True, slots=True)
class Part:
    """One packed matrix, stack of experts, or plain tensor of the model.

    sources: our names of the tensors it is made of, joined along rows in this order; shapes: theirs.
    """

    name: str
    label: Label
    kind: Literal["plain", "matrix", "gate_up", "down"]
    sources: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    format: Format = "bf16"
    group_size: int = 0

    def num_bytes(self, dtype: torch.dtype) -> int:
        """On the device, padding and scales included. dtype: of plain tensors and of weights in format bf16."""
        if self.kind == "plain":
            return dtype.itemsize * math.prod(self.shapes[0])
        data, scale = self.packed_shapes
        itemsize = {"int4": 4, "int8": 1, "fp8": 1, "bf16": dtype.itemsize}[self.format]
        return itemsize * math.prod(data) + (4 * math.prod(scale) if scale else 0)

    @property
    def num_rows(self) -> int:
        """Of each packed matrix; gate and up are padded to whole panels one by one."""
        num_rows = sum(shape[-2] for shape in self.shapes)
        return 2 * PANEL * -(-num_rows // (2 * PANEL)) if self.kind == "gate_up" else num_rows

    @property
    def num_cols(self) -> int:
        return self.shapes[0][-1]

    @property
    def block_k(self) -> int:
        return block_k_of(self.num_cols, self.format, self.group_size)

    @property
    def packed_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of data and scale as kernels/packing.py lays them out; scale is () in format bf16, which has none."""
        num_matrices = 1 if self.kind == "matrix" else self.shapes[0][0]
        num_panels, num_blocks = -(-self.num_rows // PANEL), -(-self.num_cols // self.block_k)
        per_word = 8 if self.format == "int4" else 1
        data = (num_matrices, num_panels, num_blocks, PANEL, self.block_k // per_word)
        # a word holds the scales of two groups, or one of a whole row
        num_words = -(-self.num_cols // self.group_size // 2) if self.group_size else 1
        return data, () if self.format == "bf16" else (num_matrices, num_words, num_panels * PANEL)


def parts(config: ModelConfig, scheme: Scheme) -> list[Part]:
    """Every part of a model, in the order of its forward."""
    H, width, E, I = config.hidden_size, config.intermediate_size, config.num_experts, config.expert_size
    dense = (scheme.dense, 0 if scheme.dense in ("fp8", "bf16") else scheme.dense_group)
    sparse = (scheme.experts, 0 if scheme.experts in ("fp8", "bf16") else scheme.experts_group)

    def plain(name: str, shape: tuple[int, ...], label: Label = "norms and router") -> Part:
        return Part(name, label, "plain", (name,), (shape,))

    def mlp(name: str, source: str) -> list[Part]:
        return [
            Part(f"{name}.gate_up", "dense", "matrix", (f"{source}.gate_proj.weight", f"{source}.up_proj.weight"),
                 ((width, H), (width, H)), *dense),
            Part(f"{name}.down", "dense", "matrix", (f"{source}.down_proj.weight",), ((H, width),), *dense),
        ]  # fmt: skip

    found = [plain("embed_tokens.weight", (config.vocab_size, H), "embedding")]
    found += [plain("self_conditioning.pre_norm.weight", (H,)), *mlp("self_conditioning", "self_conditioning")]
    for i, spec in enumerate(config.layers):
        at, D = f"layers.{i}", spec.head_dim
        q, kv = config.num_heads * D, spec.num_kv_heads * D
        heads = [("q", q), ("k", kv)] + ([("v", kv)] if spec.has_value_proj else [])
        names = tuple(f"{at}.self_attn.{head}_proj.weight" for head, _ in heads)
        found += [
            Part(f"{at}.qkv", "attention", "matrix", names, tuple((rows, H) for _, rows in heads), *dense),
            Part(f"{at}.out", "attention", "matrix", (f"{at}.self_attn.o_proj.weight",), ((H, q),), *dense),
            *mlp(f"{at}.mlp", f"{at}.mlp"),
            Part(f"{at}.experts.gate_up", "experts", "gate_up", (f"{at}.experts.gate_up_proj",), ((E, 2 * I, H),),
                 *sparse),
            Part(f"{at}.experts.down", "experts", "down", (f"{at}.experts.down_proj",), ((E, H, I),), *sparse),
            plain(f"{at}.router.proj.weight", (E, H)),
            plain(f"{at}.router.scale", (H,)),
            plain(f"{at}.router.per_expert_scale", (E,)),
            plain(f"{at}.self_attn.q_norm.weight", (D,)),
            plain(f"{at}.self_attn.k_norm.weight", (D,)),
            *(plain(f"{at}.{norm}.weight", (H,)) for norm in LAYER_NORMS),
            plain(f"{at}.layer_scalar", (1,)),
            plain(f"{at}.encoder_layer_scalar", (1,)),
        ]
    return [*found, plain("norm.weight", (H,))]


LAYER_NORMS = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
    "post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2",
)  # fmt: skip


def source_format(folder: Path) -> SourceFormat:
    """What config.json says about quantisation. Raises: ConfigError for a scheme that cannot be read, or for several in
    one model.
    """
    path = folder / "config.json"
    raw: object = {}
    try:
        raw = read_json(path) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); copy the model folder again") from None
    quantisation = _section(raw, path, "config.json").get("quantization_config")
    if not quantisation and (folder / MODELOPT).exists():
        # older exports say it beside config.json only
        path, quantisation = folder / MODELOPT, {"quant_method": "modelopt"}
    if not quantisation:
        return "float"
    quantisation = _section(quantisation, path, "quantization_config")
    method, form = quantisation.get("quant_method"), quantisation.get("format")
    groups = _section(quantisation.get("config_groups") or {}, path, "quantization_config.config_groups")
    groups = {
        name: _section(group, path, f"quantization_config.config_groups.{name}") for name, group in groups.items()
    }
    # each group may name its own, and the whole be called mixed-precision
    forms = {str(group.get("format") or form) for group in groups.values()} or {str(form)}
    if method != "compressed-tensors" or not forms <= {"pack-quantized", "nvfp4-pack-quantized"} or len(forms) > 1:
        raise ConfigError(
            f"{path}: quantization_config is {method!r} in format {' and '.join(map(repr, sorted(forms)))}; this "
            "engine reads one of compressed-tensors' 'pack-quantized' (INT4) and 'nvfp4-pack-quantized' for all "
            "weights that are quantised, or unquantised weights: choose such a release of the model"
        )
    form = forms.pop()
    for name, group in groups.items():
        weights = _section(group.get("weights") or {}, path, f"quantization_config.config_groups.{name}.weights")
        if form == "pack-quantized" and (
            weights.get("num_bits") != 4 or weights.get("symmetric") is False or weights.get("actorder")
        ):
            raise ConfigError(
                f"{path}: quantization_config.config_groups.{name}.weights is {weights}; only symmetric 4-bit weights "
                "without activation order can be read"
            )
    return cast(SourceFormat, form)


def _section(value: object, path: Path, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {name} is {value!r}, not a JSON object; copy the model folder again")
    return cast(dict[str, Any], value)


def stream(
    source: Path,
    config: ModelConfig,
    scheme: Scheme,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Iterator[tuple[Part, PackedMatrix | Tensor]]:
    """Read a folder (or one file) and yield every part, on the device. Quantising happens there too.

    Raises: CheckpointError for a tensor that is missing, extra, misshaped, of a wrong dtype, not finite or cut off,
    naming it and its file.
    """
    shards = Shards(source)
    reader = _Reader(shards, torch.device(device), scheme)
    wanted = parts(config, scheme)
    builders: dict[str, _Builder] = {}
    for part in wanted:
        builder = _Stack(part, reader) if part.kind in ("gate_up", "down") else _Join(part, reader)
        builders |= dict.fromkeys(builder.names(), builder)
    done_bytes = 0
    for file in shards.files:
        with shards.opened(file):
            for key in shards.names(file):
                done_bytes += shards.stored[key].num_bytes
                name = _weight_name(key, shards)
                if name is None:
                    continue
                if name not in builders:
                    raise foreign_error(file, key)
                if our_name(key) is None or key.endswith(COMPANIONS):
                    # a copy, or read with its weight
                    continue
                builder = builders[name]
                builder.add(name, key)
                if builder.is_complete:
                    yield builder.part, builder.take()
                    if progress is not None:
                        progress(done_bytes, shards.num_bytes, builder.part.name)
    missing = [name for part in wanted for name in builders[part.sources[0]].missing()]
    if missing:
        raise missing_error(source, missing)


# -- pieces ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Coded:
    """codes [N, K] with scale [N, groups] (None: the codes are the weights themselves, in format bf16)."""

    codes: Tensor
    scale: Tensor | None
    format: Format
    group_size: int

    def weights(self) -> Tensor:
        if self.scale is None:
            return self.codes.float()
        scale = self.scale.float()
        if self.group_size:
            scale = scale.repeat_interleave(self.group_size, dim=-1)[:, : self.codes.shape[-1]]
        return self.codes.float() * scale


@dataclass(slots=True)
class _Reader:
    """Reads one weight, whatever form it is stored in, as a float tensor or as codes that can be kept."""

    shards: Shards
    device: torch.device
    scheme: Scheme
    is_rounding: bool = False

    def plain(self, key: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self.checked(key, shape)
        # cloned, so that the file's memory map can go
        return (
            tensor.clone()
            if self.device.type == "cpu" and tensor.dtype == self.scheme.dtype
            else tensor.to(self.device, self.scheme.dtype)
        )

    def checked(self, key: str, shape: tuple[int, ...], dtype: str | None = None) -> Tensor:
        """dtype: what it must be stored as; None: any that an unquantised weight may have."""
        stored = self.shards.stored[key]
        if dtype is None:
            check_float(stored.file, key, stored.dtype)
        elif stored.dtype != dtype:
            raise CheckpointError(
                f"{stored.file}: tensor {key} has dtype {stored.dtype}, expected {dtype}; choose a release of the "
                "model whose packed weights are INT4 or NVFP4 (compressed-tensors)"
            )
        if stored.shape != shape:
            raise CheckpointError(
                f"{stored.file}: tensor {key} has shape {list(stored.shape)}, the config asks for {list(shape)}"
            )
        tensor = self.shards.read(key)
        check_finite(tensor, key, stored.file, self.scheme.dtype if dtype is None else None)
        return tensor

    def weight(self, key: str, shape: tuple[int, ...]) -> Tensor | _Coded:
        """key: a float tensor, or a `.weight_packed` with its companions. -> float [N, K], or codes."""
        if not key.endswith(".weight_packed"):
            return self.checked(key, shape).to(self.device)
        dtype = self.shards.stored[key].dtype
        if dtype == "I32":
            return self._int4(key, shape)
        if dtype == "U8":
            return self._nvfp4(key, shape)
        raise CheckpointError(
            f"{self.shards.stored[key].file}: tensor {key} has dtype {dtype}, neither INT4 (I32) nor NVFP4 (U8)"
        )

    def _int4(self, key: str, shape: tuple[int, ...]) -> _Coded:
        N, K = shape
        words = self.checked(key, (N, -(-K // 8)), "I32").to(self.device)
        base = key.removesuffix("_packed")
        meant = self.shards.read(f"{base}_shape") if f"{base}_shape" in self.shards.stored else torch.tensor([N, K])
        if not torch.equal(meant.long(), torch.tensor([N, K])):
            raise CheckpointError(
                f"{self.shards.stored[key].file}: tensor {base}_shape says {list(map(int, meant))}, the config "
                f"asks for {[N, K]}; copy the model again, or choose another release"
            )
        groups = self._stored_shape(f"{base}_scale")
        if len(groups) != 2 or groups[0] != N or not groups[1] or K % groups[1]:
            raise self._misfit(f"{base}_scale", groups, f"[{N}, K / group size] for K = {K}")
        scale = self.checked(f"{base}_scale", groups).to(self.device)
        shift = torch.arange(8, dtype=torch.int32, device=self.device) * 4
        codes = (((words[..., None] >> shift) & 15) - 8).to(torch.int8).flatten(1)[:, :K]
        return _Coded(codes, scale, "int4", K // groups[1])

    def _nvfp4(self, key: str, shape: tuple[int, ...]) -> Tensor:
        N, K = shape
        pairs = self.checked(key, (N, K // 2), "U8").to(self.device)
        base = key.removesuffix("_packed")
        self._stored_shape(f"{base}_scale")
        scale = self.checked(f"{base}_scale", (N, K // 16), "F8_E4M3").to(self.device)
        divisor = self.checked(f"{base}_global_scale", self._stored_shape(f"{base}_global_scale")).float()
        if divisor.numel() != 1 or float(divisor) <= 0:
            raise self._misfit(f"{base}_global_scale", tuple(divisor.shape), "one positive number")
        codes = torch.stack((pairs & 15, pairs >> 4), dim=-1).flatten(1).long()
        table = torch.tensor((*E2M1, *(-value for value in E2M1)), device=self.device)
        return table[codes] * (scale.float() / float(divisor)).repeat_interleave(16, dim=1)

    def _stored_shape(self, key: str) -> tuple[int, ...]:
        if key not in self.shards.stored:
            raise CheckpointError(
                f"{self.shards.place(key)}: tensor {key} is missing, though its packed weight is there; copy the "
                "model again"
            )
        return self.shards.stored[key].shape

    def _misfit(self, key: str, got: tuple[int, ...], wanted: str) -> CheckpointError:
        return CheckpointError(f"{self.shards.stored[key].file}: tensor {key} has shape {list(got)}, expected {wanted}")

    def coded(self, weight: Tensor | _Coded, part: Part) -> _Coded:
        """Quantised by the part's format, unless it comes quantised in a way that a kernel streams."""
        if isinstance(weight, _Coded):
            if weight.group_size in GROUP_SIZES:
                self._announce_rounding(weight)
                return weight
            weight = weight.weights()
        if part.format == "bf16":
            return _Coded(weight.to(self.scheme.dtype, copy=True), None, "bf16", 0)
        codes, scale = quantize(weight, part.format, part.group_size)
        return _Coded(codes, scale, part.format, part.group_size)

    def joined(self, pieces: list[_Coded], part: Part) -> _Coded:
        """Along their rows. Where a checkpoint leaves some of them unquantised, all are by our own scheme."""
        if len({(piece.format, piece.group_size) for piece in pieces}) > 1:
            pieces = [self.coded(piece.weights(), part) for piece in pieces]
        scales = [piece.scale for piece in pieces if piece.scale is not None]
        codes, scale = _rows([piece.codes for piece in pieces]), _rows(scales) if scales else None
        return _Coded(codes, scale, pieces[0].format, pieces[0].group_size)

    def _announce_rounding(self, weight: _Coded) -> None:
        """Say once that scales are wider than the kernels' bf16; the truth is then the weights with rounded scales."""
        if self.is_rounding or weight.scale is None or weight.scale.dtype == torch.bfloat16:
            return
        if not torch.equal(weight.scale.to(torch.bfloat16).to(weight.scale.dtype), weight.scale):
            self.is_rounding = True
            logger.warning(
                "%s: the INT4 scales are %s and are rounded to bf16, which changes each weight by up to 0.2 %%; "
                "choose a release with bf16 scales to have them exactly",
                self.shards.source,
                str(weight.scale.dtype).removeprefix("torch."),
            )


# -- builders: pieces become a part ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Join:
    """A plain tensor, or matrices joined along their rows."""

    part: Part
    reader: _Reader
    pieces: dict[str, _Coded | Tensor] = field(default_factory=dict[str, "_Coded | Tensor"])
    is_taken: bool = False

    def names(self) -> tuple[str, ...]:
        return self.part.sources

    def missing(self) -> list[str]:
        return [] if self.is_taken else [name for name in self.part.sources if name not in self.pieces]

    @property
    def is_complete(self) -> bool:
        return not self.is_taken and len(self.pieces) == len(self.part.sources)

    def add(self, name: str, key: str) -> None:
        shape = self.part.shapes[self.part.sources.index(name)]
        if self.part.kind == "plain":
            self.pieces[name] = self.reader.plain(key, shape)
        else:
            self.pieces[name] = self.reader.coded(self.reader.weight(key, shape), self.part)

    def take(self) -> PackedMatrix | Tensor:
        pieces = [self.pieces[name] for name in self.part.sources]
        self.pieces, self.is_taken = {}, True
        if isinstance(pieces[0], Tensor):
            return pieces[0]
        joined = self.reader.joined([piece for piece in pieces if isinstance(piece, _Coded)], self.part)
        scale = None if joined.scale is None else joined.scale[None]
        return pack(joined.codes[None], scale, joined.format, joined.group_size)


@dataclass(slots=True)
class _Stack:
    """The gate and up, or the down matrices of all experts of a layer, packed expert by expert into their final
    place.
    """

    part: Part
    reader: _Reader
    result: PackedMatrix | None = None
    halves: dict[tuple[int, str], _Coded] = field(default_factory=dict[tuple[int, str], "_Coded"])
    is_packed: set[int] = field(default_factory=set[int])
    is_taken: bool = False

    @property
    def num_experts(self) -> int:
        return self.part.shapes[0][0]

    @property
    def roles(self) -> tuple[str, ...]:
        return ("gate", "up") if self.part.kind == "gate_up" else ("down",)

    def single(self, e: int, role: str) -> str:
        """Our name of one expert's matrix."""
        return f"{self.part.name.removesuffix(f'.{self.part.kind}')}.{e}.{role}_proj.weight"

    def names(self) -> list[str]:
        single = [self.single(e, role) for e in range(self.num_experts) for role in self.roles]
        return [self.part.sources[0], *single]

    def missing(self) -> list[str]:
        if self.is_taken:
            return []
        if not self.is_packed and not self.halves:
            return [self.part.sources[0]]
        gone = [(e, role) for e in range(self.num_experts) for role in self.roles if e not in self.is_packed]
        return [self.single(e, role) for e, role in gone if (e, role) not in self.halves]

    @property
    def is_complete(self) -> bool:
        return not self.is_taken and len(self.is_packed) == self.num_experts

    def add(self, name: str, key: str) -> None:
        single = ONE_EXPERT.fullmatch(name)
        E, N, K = self.part.shapes[0]
        if single is None:
            stacked = self.reader.checked(key, (E, N, K))
            for e in range(E):
                self._place(e, self.reader.coded(stacked[e].to(self.reader.device), self.part))
            return
        e, role = int(single[2]), single[3]
        weight = self.reader.weight(key, (N // len(self.roles), K))
        self.halves[e, role] = self.reader.coded(weight, self.part)
        if all((e, other) in self.halves for other in self.roles):
            pieces = [self.halves.pop((e, other)) for other in self.roles]
            self._place(e, self.reader.joined(pieces, self.part))

    def _place(self, e: int, coded: _Coded) -> None:
        codes, scale = coded.codes[None], None if coded.scale is None else coded.scale[None]
        if self.part.kind == "gate_up":
            # fp8 knows few operators: go through its bytes
            is_fp8 = codes.dtype == torch.float8_e4m3fn
            codes = interleave_gate_up(codes.view(torch.uint8) if is_fp8 else codes)
            codes = codes.view(torch.float8_e4m3fn) if is_fp8 else codes
            scale = None if scale is None else interleave_gate_up(scale)
        one = pack(codes, scale, coded.format, coded.group_size)
        if self.result is None:
            data = one.data.new_empty((self.num_experts, *one.data.shape[1:]))
            scales = None if one.scale is None else one.scale.new_empty((self.num_experts, *one.scale.shape[1:]))
            self.result = PackedMatrix(
                data, scales, one.format, one.num_rows, one.num_cols, one.group_size, one.block_k
            )
        if (one.format, one.group_size) != (self.result.format, self.result.group_size):
            raise CheckpointError(
                f"{self.reader.shards.source}: {self.part.name}: expert {e} is {one.format} in groups of "
                f"{one.group_size}, others "
                f"{self.result.format} in groups of {self.result.group_size}; such a mixture cannot be read"
            )
        self.result.data[e] = one.data[0]
        if self.result.scale is not None and one.scale is not None:
            self.result.scale[e] = one.scale[0]
        self.is_packed.add(e)

    def take(self) -> PackedMatrix:
        result, self.result, self.is_taken = self.result, None, True
        assert result is not None
        return result


_Builder = _Join | _Stack


def _weight_name(key: str, shards: Shards) -> str | None:
    """Our name of the weight that a stored tensor is, is read with or is a copy of; None for the vision tower's.

    Raises: CheckpointError for what belongs to a packed weight that is not there.
    """
    file, copied = shards.stored[key].file, copied_name(key)
    name = our_name(key) or copied
    if name is None:
        return None
    if key.endswith(UNSUPPORTED):
        raise CheckpointError(
            f"{file}: tensor {key} belongs to an asymmetric or re-ordered scheme, which cannot be read"
        )
    if key.endswith(COMPANIONS):
        packed = f"{key.rpartition('.')[0]}.weight_packed"
        if packed not in shards.stored:
            raise CheckpointError(
                f"{file}: tensor {key} belongs to {packed}, which is missing; copy the model again, or choose a "
                "release whose quantised weights are all INT4 or all NVFP4 (compressed-tensors)"
            )
        return f"{name.rpartition('.')[0]}.weight"
    if copied is not None and key.endswith("_packed") and their_name(copied) not in shards.stored:
        raise CheckpointError(
            f"{file}: tensor {key} is packed and the weight that it must be a copy of is not; choose a release of the "
            "model that quantises both or neither"
        )
    return name.removesuffix("_packed") if name.endswith(".weight_packed") else name


def _rows(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

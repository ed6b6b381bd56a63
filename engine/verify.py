"""`lacuna verify`: the engine beside transformers' own classes on one checkpoint, and which tensor is to blame.

Compares every loaded weight, the encoder's keys and values, the decoder's logits and one denoise with the same random
numbers, all in fp32 on the CPU. A manifest (sha256 of every stored tensor) tells whether the files are still those that
passed once. A packed folder and a quantised one, which transformers' classes cannot read, are checked tensor by tensor
instead, and the report says so. The only module of this room that imports transformers, and only when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from .checkpoint import EMBEDDED, load_checkpoint, our_name, save_folder, their_name
from .config import ModelConfig
from .denoise import denoise
from .errors import ModelError
from .find import expanded
from .formats import EXACT, source_format, stream
from .kv_cache import KVCache
from .manifest import MANIFEST, Altered, check_manifest, files_by_name, manifest_path, write_manifest
from .model import DiffusionGemma
from .modelfile import PACKED_MANIFEST
from .packed import ProgressLine, check_packed, is_packed
from .policies import SamplingPolicy
from .problem import Canvas
from .shards import Shards

TOLERANCE = 1e-4
"""Largest difference allowed, absolute; of a quantity whose largest value is over 1, times that value."""

MAX_PROMPT, MAX_ROWS, MAX_STEPS = 1200, 32, 12
SHORT_PROMPT = 24


@dataclass(frozen=True, slots=True)
class Quantity:
    """One compared thing. difference, tolerance: largest absolute value found, and allowed. detail: where it was."""

    name: str
    difference: float
    tolerance: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        # NaN is not less than anything
        return self.difference <= self.tolerance


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """checked: what was done, for people."""

    source: str
    quantities: tuple[Quantity, ...]
    altered: tuple[Altered, ...]
    has_manifest: bool
    num_tensors: int
    seconds: float
    checked: str

    @property
    def passed(self) -> bool:
        return not self.altered and all(quantity.passed for quantity in self.quantities)


def verify(source: Path, model: DiffusionGemma | None = None, use_manifest: bool = True) -> VerifyReport:
    """Compare the engine with transformers on a checkpoint folder or a packed file. A packed folder is compared with
    its manifest, the tensors of a quantised one are looked at.

    model: the engine's copy where it is loaded already (fp32); None loads it. Raises: ModelError and its kinds.
    """
    started = time.monotonic()

    def report(
        checked: str, altered: list[Altered], has_manifest: bool, num_tensors: int, *quantities: Quantity
    ) -> VerifyReport:
        seconds = time.monotonic() - started
        return VerifyReport(str(source), quantities, tuple(altered), has_manifest, num_tensors, seconds, checked)

    if is_packed(source):
        checked = (
            f"checksum, shape and dtype of every tensor against {PACKED_MANIFEST}, which ones there must be by "
            "config.json, and that no value is NaN or infinite. Not compared with transformers, which cannot read this "
            "form: for that, verify the folder it was packed from"
        )
        faults, num_tensors = check_packed(source, ProgressLine("checking"))
        return report(checked, faults, True, num_tensors)
    altered = check_manifest(source) if use_manifest else None
    if altered:
        # what was altered may not even load, and no figure says more than its name
        return report(f"the sha256 of every tensor against {MANIFEST}", altered, True, 0)
    has_manifest = altered is not None
    if source.is_dir() and (form := source_format(source)) != "float":
        # nothing is rounded: only what is read is looked at
        for _ in stream(source, ModelConfig.load(source / "config.json"), EXACT, progress=ProgressLine("checking")):
            pass
        checked = (
            f"name, shape and dtype of every tensor against config.json ({form}), and that no value is NaN or "
            "infinite. Not compared with transformers, which is done for unquantised checkpoints only"
        )
        return report(checked, [], has_manifest, len(Shards(source).stored))
    model = load_checkpoint(source, weights="fp32") if model is None else model
    with warnings.catch_warnings(), torch.no_grad():
        # transformers' and torch's own notices are no findings about this checkpoint
        warnings.simplefilter("ignore")
        truth = load_truth(source)
        blamed, num_tensors = _compare_tensors(model, truth, files_by_name(source))
        quantities = (*_compare_prompt(model, truth), *_compare_denoise(model, truth))
    checked = "every weight, keys and values, logits and a denoise, beside transformers' own classes"
    return report(checked, blamed, has_manifest, num_tensors, *quantities)


def main(argv: Sequence[str]) -> int:
    """The command line. Prints a table (or JSON) and returns 0 when everything is the same, 1 when it is not."""
    parser = argparse.ArgumentParser(prog="lacuna verify", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, metavar="DIR", help="default: the model that comes with Lacuna")
    parser.add_argument("--write-manifest", action="store_true", help=f"when all is well, write {MANIFEST}")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(argv)
    source: Path = EMBEDDED if options.model is None else expanded(options.model)
    if options.write_manifest and is_packed(source):
        raise ModelError(f"{source} has its manifest, {PACKED_MANIFEST}, already; leave --write-manifest out")
    report = verify(source, use_manifest=not options.write_manifest)
    console = Console()
    if options.json:
        console.print_json(json.dumps({**asdict(report), "passed": report.passed}))
    else:
        _show(report, console)
    if options.write_manifest and report.passed:
        try:
            path = write_manifest(source)
        except OSError as error:
            place = manifest_path(source)
            raise ModelError(f"{place} cannot be written ({error.strerror}); make it writable") from None
        if not options.json:
            console.print(f"wrote {path}", soft_wrap=True, markup=False)
    return 0 if report.passed else 1


def _show(report: VerifyReport, console: Console) -> None:
    table = Table("quantity", "largest difference", "allowed", "", "where", title=escape(report.source))
    for quantity in report.quantities:
        verdict = "[green]same[/]" if quantity.passed else "[red]DIFFERENT[/]"
        table.add_row(
            quantity.name, f"{quantity.difference:.2e}", f"{quantity.tolerance:.2e}", verdict, quantity.detail
        )
    if report.quantities:
        console.print(table)
    for item in report.altered:
        altered = escape(f"{item.tensor} in {item.file}: {item.detail}")
        console.print(f"[red]altered:[/] {altered}", soft_wrap=True, highlight=False)
    console.print(f"checked: {report.checked}", soft_wrap=True, highlight=False)
    if not report.passed and not report.altered:
        console.print("all weights are the same as transformers': the difference is in the computation", soft_wrap=True)
    manifest = "manifest: same" if report.has_manifest else f"no {MANIFEST}: write one with --write-manifest"
    verdict = "[green]passed[/]" if report.passed else "[red]FAILED[/]"
    count = f"{report.num_tensors} tensors, " if report.num_tensors else ""
    console.print(f"{verdict} ({count}{report.seconds:.1f} s" + (f", {manifest})" if report.passed else ")"))


# -- transformers' side ---------------------------------------------------------------------------------------------


def load_truth(source: Path) -> Any:
    """The model of transformers' classes, from a checkpoint folder or a packed file. Raises: ModelError and its kinds.
    """
    if source.is_dir():
        return _load_folder(source)
    # some systems keep a mapped file until the model is gone
    with tempfile.TemporaryDirectory(prefix="lacuna-verify-", ignore_cleanup_errors=True) as folder:
        save_folder(load_checkpoint(source, weights="fp32"), Path(folder))
        return _load_folder(Path(folder))


def _load_folder(folder: Path) -> Any:
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        # its grouped product refuses sizes that are no multiple of four: the plain loop takes all
        truth = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, experts_implementation="eager"
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"transformers cannot load {folder} ({error}); nothing to compare the engine with") from error
    return truth.eval()


def _compare_tensors(model: DiffusionGemma, truth: Any, files: dict[str, str]) -> tuple[list[Altered], int]:
    """Every weight by name: the same file was read twice, so the values must be equal to the bit."""
    own = dict(model.state_dict())
    seen: dict[str, Tensor] = {}
    altered: dict[str, Altered] = {}
    for key, tensor in sorted(cast(dict[str, Tensor], truth.state_dict()).items()):
        if ".vision_tower." in key or ".embed_vision." in key:
            continue
        # tied copies stand for the decoder's tensor
        tied = "embed_tokens.weight" if key == "lm_head.weight" else key.removeprefix("model.encoder.language_model.")
        name = our_name(key) or tied
        stored = their_name(name)
        file = files.get(stored) or files.get(name) or "memory"
        mine = own.get(name)
        if mine is None or mine.shape != tensor.shape:
            altered[name] = Altered(stored, file, "missing", "transformers has it, the engine has none of that shape")
        elif not torch.equal(mine.float(), tensor.float()):
            largest = (mine.float() - tensor.float()).abs().max().item()
            detail = f"the engine's values differ from transformers' by up to {largest:.2e}"
            altered.setdefault(name, Altered(stored, file, "loaded", detail))
        seen[name] = tensor
    for name in sorted(own.keys() - seen.keys()):
        altered[name] = Altered(name, "memory", "missing", "the engine has it, transformers has not")
    return list(altered.values()), len(seen)


def _compare_prompt(model: DiffusionGemma, truth: Any) -> list[Quantity]:
    """Encoder and decoder on one prompt, longer than the sliding window where that is affordable."""
    config = model.config
    rows = min(config.canvas_length, MAX_ROWS)
    window = max((spec.window for spec in config.layers if spec.window), default=SHORT_PROMPT)
    num_prompt = max(2, min(window + 9, config.max_positions - rows, MAX_PROMPT))
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(0, config.vocab_size, (num_prompt,), generator=generator)
    canvas = torch.randint(0, config.vocab_size, (1, rows), generator=generator)
    belief = torch.randn(1, rows, config.vocab_size, generator=generator) * 3
    theirs, their_hidden = _truth_encode(truth, prompt)
    cache = KVCache(config, model.device, model.dtype)
    hidden = model.encode(prompt, cache)
    quantities = [_worst_layer("encoder keys", cache, theirs, 0), _worst_layer("encoder values", cache, theirs, 1)]
    quantities.append(_quantity("encoder hidden state", hidden, their_hidden, f"{num_prompt} prompt tokens"))
    for name, soft in (("decoder logits, first step", None), ("decoder logits, self-conditioned", belief)):
        mine = model.logits(model.decode(canvas, cache, None if soft is None else model.soft_embedding(soft)))
        wanted = truth(**cached(theirs), decoder_input_ids=canvas, self_conditioning_logits=soft).logits
        quantities.append(_quantity(name, mine, wanted, f"{rows} rows"))
    return quantities


def _compare_denoise(model: DiffusionGemma, truth: Any) -> list[Quantity]:
    """One denoise by transformers' `generate`, and the engine beside it in two parts that rounding cannot blur.

    Our loop over transformers' decoder must show it the very same canvases step by step. Our decoder, shown what theirs
    was shown at each step, must give the same logits. Loop and decoder together may part from theirs by rounding alone
    (random weights amplify it up to tenfold a step), so how far they agree is told and not judged.
    """
    config = model.config
    rows = min(config.canvas_length, MAX_ROWS)
    num_prompt = max(1, min(SHORT_PROMPT, config.max_positions - rows))
    prompt = torch.randint(0, config.vocab_size, (num_prompt,), generator=torch.Generator().manual_seed(2))
    shown, answer = _generate(truth, prompt, rows)
    theirs, _ = _truth_encode(truth, prompt)
    cache = KVCache(config, model.device, model.dtype)
    model.encode(prompt, cache)

    def run(logits_of: Callable[[Tensor, Tensor | None], Tensor]) -> _Looped:
        looped = _Looped(logits_of, config.vocab_size)
        generator = torch.Generator().manual_seed(0)
        out = denoise(looped, [Canvas.free(rows)], SamplingPolicy(), MAX_STEPS, generator, frozenset())
        looped.answer = out.tokens
        return looped

    def by_truth(tokens: Tensor, belief: Tensor | None) -> Tensor:
        logits: Tensor = truth(**cached(theirs), decoder_input_ids=tokens, self_conditioning_logits=belief).logits
        return logits

    def by_engine(tokens: Tensor, belief: Tensor | None) -> Tensor:
        return model.logits(model.decode(tokens, cache, None if belief is None else model.soft_embedding(belief)))

    guided = run(by_truth)
    canvases = [step.canvas for step in shown]
    num_same = _agreement(guided.canvases, canvases)
    is_same = num_same == len(canvases) == len(guided.canvases) and torch.equal(guided.answer, answer)
    detail = f"{num_same} of {len(canvases)} canvases"
    num_wrong = 0 if is_same else max(1, len(canvases) - num_same)
    quantities = [Quantity("denoise: wrong canvases", float(num_wrong), 0.0, detail)]
    worst = max(
        (_quantity("", by_engine(s.canvas, s.belief), s.logits, f"step {i + 1}") for i, s in enumerate(shown)),
        key=lambda quantity: quantity.difference / quantity.tolerance,
    )
    detail = worst.detail
    if worst.passed:
        freely = _agreement(run(by_engine).canvases, canvases)
        detail += f"; run freely, {freely} of {len(canvases)} canvases are the same"
    quantities.append(Quantity("denoise: logits of its steps", worst.difference, worst.tolerance, detail))
    return quantities


@dataclass(frozen=True, slots=True)
class _Step:
    """What transformers' decoder was shown, and what it said. canvas [1, L]; belief, logits [1, L, V]."""

    canvas: Tensor
    belief: Tensor | None
    logits: Tensor


class _Looped:
    """A Denoiser over any decoder that takes the last step's logits instead of an embedding. Keeps the canvases."""

    def __init__(self, logits_of: Callable[[Tensor, Tensor | None], Tensor], vocab_size: int) -> None:
        self._logits_of = logits_of
        self.vocab_size, self.first_noise_id, self.device = vocab_size, 0, torch.device("cpu")
        self.canvases: list[Tensor] = []
        self.answer = torch.zeros(0)

    def logits(self, tokens: Tensor, soft: Tensor | None, num_rows: Tensor | None) -> Tensor:
        self.canvases.append(tokens.clone())
        return self._logits_of(tokens, soft)

    def soft_embedding(self, logits: Tensor, tokens: Tensor, is_pinned: Tensor) -> Tensor:
        return logits

    def first_soft_embedding(self, tokens: Tensor, is_pinned: Tensor) -> Tensor | None:
        return None


class _Drafts:
    """transformers' streamer interface: keeps the latest argmax canvas."""

    def __init__(self) -> None:
        self.last = torch.zeros(0)

    def put(self, value: Tensor) -> None: ...

    def put_draft(self, value: Tensor) -> None:
        self.last = value

    def end(self) -> None: ...


def _generate(truth: Any, prompt: Tensor, rows: int) -> tuple[list[_Step], Tensor]:
    """What `generate` shows its decoder at each step of one canvas, and the canvas it ends with [1, rows]."""
    shown: list[_Step] = []
    forward: Any = truth.forward

    def recording(**inputs: Any) -> Any:
        out: Any = forward(**inputs)
        shown.append(_Step(inputs["decoder_input_ids"].clone(), inputs["self_conditioning_logits"], out.logits))
        return out

    random: Any = torch.random
    drafts, length = _Drafts(), truth.config.canvas_length
    truth.forward, truth.config.canvas_length = recording, rows
    try:
        with random.fork_rng(devices=[]):
            random.manual_seed(0)
            # the defaults of its code, not of a generation_config.json: the policy compared with is the reference's
            truth.generation_config = type(truth.generation_config)()
            truth.generate(prompt[None], streamer=drafts, max_new_tokens=rows, max_denoising_steps=MAX_STEPS)
    finally:
        del truth.forward
        truth.config.canvas_length = length
    return shown, drafts.last


def cached(cache: Any) -> dict[str, Any]:
    """transformers' cache under the name that this version of it takes: `cache`, before 5.24 `past_key_values`."""
    model: Any = importlib.import_module("transformers").DiffusionGemmaForBlockDiffusion
    return {"cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values": cache}


def _truth_encode(truth: Any, prompt: Tensor) -> tuple[Any, Tensor]:
    cache_utils: Any = importlib.import_module("transformers.cache_utils")
    cache = cache_utils.DynamicCache(config=truth.config.get_text_config())
    return cache, truth.model.encoder(input_ids=prompt[None], **cached(cache)).last_hidden_state[0]


def _worst_layer(name: str, cache: KVCache, theirs: Any, which: int) -> Quantity:
    layers: list[Quantity] = []
    for i, layer in enumerate(theirs.layers):
        wanted: Tensor = (layer.keys, layer.values)[which][0]
        # transformers keeps what a sliding window can still see
        layers.append(_quantity(name, cache.read(i, wanted.shape[1])[which], wanted, f"layer {i}"))
    return max(layers, key=lambda quantity: quantity.difference / quantity.tolerance)


def _quantity(name: str, mine: Tensor, wanted: Tensor, detail: str) -> Quantity:
    if mine.shape != wanted.shape:
        return Quantity(name, float("inf"), TOLERANCE, f"{list(mine.shape)} instead of {list(wanted.shape)}")
    difference = (mine.float() - wanted.float()).abs().max().item()
    # a NaN would be lost in max(); nothing is further from right
    difference = float("inf") if difference != difference else difference
    return Quantity(name, difference, TOLERANCE * max(1.0, wanted.abs().max().item()), detail)


def _agreement(mine: list[Tensor], theirs: list[Tensor]) -> int:
    """How many steps from the first saw the same canvas."""
    for i, (a, b) in enumerate(zip(mine, theirs)):
        if not torch.equal(a, b):
            return i
    return min(len(mine), len(theirs))

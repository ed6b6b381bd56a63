"""One call of a training run on a borrowed machine: no network, minutes at a time, bare again after it was handed back.

A call makes the corpus from what is installed on that machine (never a download), takes the tokenizer from the embedded
checkpoint, trains until its seconds are over, and leaves in OUT what the next call needs to go on, within the limits of
what may come back from there: 8 files of 16 MiB, 64 MiB together, and as much may travel back with the work tree.
While the machine is still warm, the next call finds corpus and exact state in --work and goes on to the step.

OUT: state.part-0.. (bytes of one safetensors file), state.json, config.json, log.jsonl (thinned), manifest.json (of the
corpus) and, once the plan's minutes are used up, embedded.safetensors. Imports neither editor, parser nor server.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load, load_file, save, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ..engine.errors import CheckpointError, ModelNotFoundError
from ..engine.modelfile import EMBEDDED, read_tokenizer
from . import sources
from .batches import BatchShape, LossWeights
from .bundle import read_bundle
from .command import guarded
from .corpus import MAX_BYTES, Corpus, build_corpus, clean_text, holdout_packages
from .dedupe import signature
from .export import export
from .train import SIZES, STATE_KEY, Plan, Run, Size, evaluate, held_out_batches, read_state, train

PART_BYTES, MAX_PARTS = 15 * 2**20, 3
"""Four more files come back beside the parts, one of them the export of up to 16 MiB: 61 MiB and 8 files at most."""

WORK = Path("/tmp/lacuna-gpu")
RESERVE_S = 15.0
"""Kept back from a call's seconds for saving, the held-out losses and the parts."""

COMPILE_S = 40.0
"""The first joint step compiles a second graph; a call that ends within this of it ends before it instead."""

MIN_CORPUS_BYTES = 4e6
"""Taken however slow the machine is: without training text there is no run."""

SMALLEST, COMPACT, EXACT = "weights in bf16", "weights and momenta in bf16", "exact"


def say(message: str) -> None:
    sys.stderr.write(f"gpu_session: {message}\n")


def choose_packages(found: Iterable[sources.Package], seconds: float, jobs: int) -> list[sources.Package]:
    """What can be cleaned in that time: all of it, or without the largest training packages (variety before volume).

    The rate is measured on 48 files. Held-out packages always stay; forks of them are build_corpus's to leave out.
    """
    unique = {package.name: package for package in found}
    held = holdout_packages()["packages"]
    paths = {n: [p.origin / f for f in p.files] for n, p in unique.items() if p.origin.is_dir()}
    sizes = {n: sum(path.stat().st_size for path in some if path.exists()) for n, some in paths.items()}
    every = [path for some in paths.values() for path in some]
    sample = [path for path in random.Random(0).sample(every, min(48, len(every))) if path.exists()]
    begun, num_bytes = time.perf_counter(), 1
    for path in sample:
        raw = path.read_bytes()[:MAX_BYTES]
        num_bytes += len(raw)
        signature(clean_text(raw)[0].encode())
    # a third is kept back: workers share memory bandwidth, and duplicates are looked for in one process
    room = max(MIN_CORPUS_BYTES, 0.66 * seconds * jobs * num_bytes / max(1e-6, time.perf_counter() - begun))
    chosen: list[sources.Package] = []
    for package in sorted(unique.values(), key=lambda p: sizes.get(p.name, 0)):
        room -= 0 if package.name in held else sizes.get(package.name, 0)
        if room >= 0 or package.name in held:
            chosen.append(package)
    if len(chosen) < len(unique):
        gone = sorted(unique.keys() - {p.name for p in chosen})
        say(f"cleaning everything would take over {seconds:.0f} s on {jobs} cores; left out: {', '.join(gone)}")
    return chosen


def prepare_corpus(
    work: Path,
    tokenizer_json: str,
    seconds: float,
    jobs: int,
    only: set[str] | None = None,
    bundle: Path | None = None,
) -> Path:
    """The corpus of this machine's packages in work/corpus, with its tokenizer; what is there already is kept.

    only: names of packages, so that a resumed run reads what it began with (as far as this machine has it). bundle:
    packages that this machine does not have.
    """
    folder = work / "corpus"
    if not (folder / "manifest.json").exists():
        found = [sources.standard_library(), *sources.installed_packages()]
        if bundle is not None:
            # where both have one, this machine's own is as good
            names = {package.name for package in found}
            found += [package for package in read_bundle(bundle, work / "bundle") if package.name not in names]
        if only is None:
            found = choose_packages(found, seconds, jobs)
        begun = time.monotonic()
        manifest = build_corpus(folder, packages=[p for p in found if only is None or p.name in only], jobs=jobs)
        say(f"corpus: {json.dumps(manifest['totals'])} in {time.monotonic() - begun:.0f} s")
        shutil.rmtree(folder / "work")
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    return folder


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in bf16; vectors, step counts and scalars as they are."""
    return {k: v.bfloat16() if v.dim() >= 2 and v.is_floating_point() else v for k, v in tensors.items()}


def portable(state: dict[str, Tensor], is_finished: bool, max_bytes: int) -> tuple[str, bytes]:
    """The fullest form of a run's state that fits, and which it is. Raises: ValueError where none does.

    What goes first is what comes back by itself: the average (its window is some hundred steps), then the optimisers'
    momenta (20 to 60 steps). Of a finished run only the weights that were exported stay, as the weights.
    """
    average = {f"model.{k[4:]}": v for k, v in state.items() if k.startswith("ema.")}
    weights = average if is_finished and average else {k: v for k, v in state.items() if k.startswith("model.")}
    momenta = {k: v for k, v in state.items() if k.startswith("opt.")}
    forms = {EXACT: state, COMPACT: _half(weights | momenta)}
    if is_finished:
        forms = {EXACT: weights}
    for form, tensors in (forms | {SMALLEST: _half(weights)}).items():
        if sum(t.nbytes for t in tensors.values()) + 200 * len(tensors) <= max_bytes:
            return form, save({k: v.contiguous() for k, v in tensors.items()})
    raise ValueError(f"the weights alone do not fit in {max_bytes} bytes; train a smaller size")


def write_parts(data: bytes, out: Path) -> int:
    """Write state.part-0.. of at most PART_BYTES each; returns how many."""
    starts = range(0, len(data), PART_BYTES)
    for number, start in enumerate(starts):
        (out / f"state.part-{number}").write_bytes(data[start : start + PART_BYTES])
    return len(starts)


def join_parts(folder: Path, run_dir: Path) -> None:
    """Make run_dir the run that a call left in `folder`, in fp32. Raises: ModelNotFoundError, CheckpointError."""
    state = _state_of(folder)
    parts = [folder / f"state.part-{number}" for number in range(state["num_parts"])]
    data = b"".join(path.read_bytes() for path in parts if path.exists())
    if len(data) != state["num_bytes"]:
        raise CheckpointError(f"{folder} holds {len(data)} of {state['num_bytes']} bytes; copy all state.part-* files")
    tensors = {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in load(data).items()}
    run_dir.mkdir(parents=True, exist_ok=True)
    save_file(tensors, run_dir / "state.safetensors", metadata={STATE_KEY: json.dumps(state)})
    for name in ("config.json", "log.jsonl"):
        shutil.copyfile(folder / name, run_dir / name)


def _state_of(folder: Path) -> dict[str, Any]:
    state = read_state(folder)
    if state is None:
        what = "--resume takes the folder of files that a call left in --out"
        raise ModelNotFoundError(f"{folder / 'state.json'} does not exist; {what}")
    return state


def _plan_of(state: dict[str, Any]) -> Plan:
    stored: dict[str, Any] = dict(state["plan"])
    stored["shape"], stored["weights"] = BatchShape(**stored["shape"]), LossWeights(**stored.get("weights", {}))
    if isinstance(stored["size"], dict):
        stored["size"] = Size(**cast("dict[str, int]", stored["size"]))
    return Plan(**stored)


def open_run(run_dir: Path, plan: Plan, resume: Path | None) -> Plan:
    """Leave in run_dir the run to go on with, or nothing for a new one. Returns its plan (a resumed run keeps its own).

    A warm machine's exact state goes before the parts, unless those are further on; a run of another plan is deleted.
    """
    there = read_state(run_dir)
    given = _state_of(resume) if resume else None
    plan = _plan_of(given) if given else plan
    is_ours = there is not None and asdict(_plan_of(there)) == asdict(plan)
    # a finished run that nobody asked to resume is not the beginning of the next
    is_open = there is not None and (given is not None or there["used_s"] < 60 * plan.minutes)
    if there and is_ours and is_open and there["step"] >= (given["step"] if given else 0):
        say(f"going on at step {there['step']} with the state that this machine still holds")
        return plan
    shutil.rmtree(run_dir, ignore_errors=True)
    if resume and given:
        join_parts(resume, run_dir)
        say(f"going on at step {given['step']}, {given['form']}")
    return plan


def thin(lines: list[str], num_plain: int = 2000) -> list[str]:
    """Every row with held-out losses, the last 100, and an even choice of the others."""
    stride = max(1, len(lines) // num_plain)
    last = len(lines) - 100
    return [line for i, line in enumerate(lines) if i >= last or i % stride == 0 or '"probe_' in line]


def held_out_losses(run: Run, corpus: Path, num_batches: int = 8) -> dict[str, float]:
    """Losses of the weights that would be exported, on fixed batches of the held-out packages. Changes run.model."""
    run.model.load_state_dict(run.best_weights())
    tokenizer_json = (corpus / "tokenizer.json").read_text(encoding="utf-8")
    probes = held_out_batches(Corpus(corpus, "holdout"), tokenizer_json, run.plan.shape, num_batches)
    return evaluate(run, probes)


def stop_after(plan: Plan, used_s: float, left_s: float, is_compiled: bool) -> float:
    """Seconds to train: what is left, or up to the joint phase where its compilation would outlast the call."""
    until_joint = plan.encoder_only_share * 60 * plan.minutes - used_s
    is_late = is_compiled and max(1.0, left_s - COMPILE_S) < until_joint < left_s
    return until_joint if is_late else left_s


def session(
    out: Path,
    plan: Plan,
    seconds: float,
    device: torch.device,
    work: Path,
    resume: Path | None,
    corpus: Path | None,
    tokenizer_json: str,
    num_workers: int = 0,
    bundle: Path | None = None,
    init_from: Path | None = None,
) -> dict[str, Any]:
    """One call; returns what it wrote to OUT/state.json. corpus: a ready folder, with its own tokenizer, instead of
    this machine's packages and tokenizer_json; bundle: more packages than those. init_from: a model that a new run
    starts from.

    Raises: ModelNotFoundError, CheckpointError, VocabularyError; ValueError when the state is too large to travel.
    """
    begun = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    jobs = os.cpu_count() or 1
    plan = open_run(work / "run", plan, resume)
    if corpus is None:
        manifest = resume / "manifest.json" if resume else None
        known = manifest is not None and manifest.exists()
        only = set(json.loads(manifest.read_text("utf-8"))["packages"]) if manifest and known else None
        # a third of the call at most: a run without steps is worth nothing
        corpus = prepare_corpus(work, tokenizer_json, seconds / 3, jobs, only, bundle)
    is_compiled = device.type == "cuda"
    held = read_state(work / "run")
    used_s = held["used_s"] if held else 0.0
    prepared_s = time.monotonic() - begun
    left_s = stop_after(plan, used_s, max(0.0, seconds - prepared_s - RESERVE_S), is_compiled)
    say(f"ready after {prepared_s:.0f} s; training for {left_s:.0f} s on {device}")
    run = train(corpus, work / "run", plan, device, left_s, num_workers, is_compiled, init_from)
    is_finished = run.progress >= 1
    state = _state_of(work / "run")
    form, data = portable(load_file(work / "run" / "state.safetensors"), is_finished, MAX_PARTS * PART_BYTES)
    state |= {"form": form, "num_bytes": len(data), "num_parts": write_parts(data, out), "is_finished": is_finished}
    log = (work / "run" / "log.jsonl").read_text("utf-8").splitlines()
    (out / "log.jsonl").write_text("".join(f"{line}\n" for line in thin(log)), encoding="utf-8")
    shutil.copyfile(work / "run" / "config.json", out / "config.json")
    if (corpus / "manifest.json").exists():
        shutil.copyfile(corpus / "manifest.json", out / "manifest.json")
    # before the last steps, which can be made up for at home: from here on OUT can be resumed
    _write_state(out, state)
    state["held_out"] = held_out_losses(run, corpus)
    if is_finished:
        card: dict[str, object] = {"held_out": state["held_out"], "steps": run.step, "tokens": run.num_tokens}
        size = export(work / "run", corpus / "tokenizer.json", out / "embedded.safetensors", card)
        say(f"the plan's {plan.minutes:g} minutes are used up; embedded.safetensors: {size} bytes")
    state["call"] = {"prepared_s": prepared_s, "all_s": time.monotonic() - begun, "device": str(device)}
    _write_state(out, state)
    del run
    gc.collect()
    say(f"step {state['step']}, {state['used_s'] / 60:.1f} of {plan.minutes:g} minutes, state {form} in "
        f"{state['num_parts']} parts, held out {json.dumps(state['held_out'])}")  # fmt: skip
    return state


def _write_state(out: Path, state: dict[str, Any]) -> None:
    (out / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    about = "Train the embedded model for one call on a borrowed machine; call again with --resume to go on."
    parser = argparse.ArgumentParser(prog="python -m lacuna_ls.training.gpu_session", description=about)
    parser.add_argument("--out", type=Path, required=True, help="what comes back: state in parts, losses, the export")
    parser.add_argument("--seconds", type=float, default=510.0, help="of this call, from its start to its end")
    parser.add_argument("--resume", type=Path, help="folder with the files of the last call; its plan is kept")
    parser.add_argument("--minutes", type=float, default=25.0, help="time budget of the whole run, over all calls")
    parser.add_argument("--size", choices=sorted(SIZES), default="gpu")
    parser.add_argument("--batch", type=int, default=256, help="examples per step")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=WORK, help="where corpus and exact state stay while it is warm")
    parser.add_argument("--corpus", type=Path, help="a ready corpus with tokenizer.json (default: made from packages)")
    parser.add_argument("--bundle", type=Path, help="more packages: a file that lacuna_ls.training.bundle wrote")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json of a new vocabulary (default: the embedded one)")
    parser.add_argument("--init-from", type=Path, help="begin with this model, the embedded one say, at half the rate")
    parser.add_argument("--prepare", action="store_true", help="make the corpus in --work and end")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 2), help="that build batches")
    args = parser.parse_args(argv)
    torch.set_float32_matmul_precision("high")
    shape = BatchShape(num_examples=args.batch)
    plan = Plan(size=args.size, minutes=args.minutes, seed=args.seed, shape=shape)
    if args.size == "gpu":
        # more noise levels of a hole cost little beside its prompt
        shape = replace(shape, num_encoder=288, max_middle=64, num_canvases=4)
        # a hundred times the steps of a run on a CPU: warm up longer and average over more of them
        plan = replace(plan, shape=shape, warmup_steps=200, ema_decay=0.998, encoder_weight_end=1.0)
    if args.init_from:
        # it has been through the first phase
        plan = replace(plan, encoder_only_share=0.0, lr_matrix=0.5 * plan.lr_matrix, lr_other=0.5 * plan.lr_other)
    if args.tokenizer and not args.tokenizer.exists():
        parser.error(f"{args.tokenizer} does not exist; leave --tokenizer out for the embedded model's vocabulary")
    tokenizer_json = args.tokenizer.read_text("utf-8") if args.tokenizer else read_tokenizer(EMBEDDED)
    if args.prepare:
        prepare_corpus(args.work, tokenizer_json, args.seconds, args.workers, None, args.bundle)
        return 0
    session(
        args.out, plan, args.seconds, torch.device(args.device), args.work, args.resume, args.corpus, tokenizer_json,
        args.workers, args.bundle, args.init_from,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))

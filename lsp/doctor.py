"""`lacuna doctor`: what was found on this machine, and what to do about what is missing. Changes nothing.

Part of the composition root: it looks into every room, inside functions.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ..engine.errors import LacunaError
from .options import EngineOptions, Options

State = Literal["ok", "note", "missing"]

MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. advice: what to do, where something should be done."""

    name: str
    state: State
    found: str
    advice: str = ""


def findings(engine: EngineOptions) -> Iterator[Finding]:
    """Everything, in the order of a report. A check that fails is a finding, never an exception."""
    checks: list[tuple[str, Callable[[], Finding | Iterator[Finding]]]] = [
        ("lacuna", _lacuna),
        ("python", _python),
        ("torch", _torch),
        ("gpu", _gpu),
        ("cpu", _cpu),
        ("model", lambda: _model(engine)),
        ("grammars", _grammars),
        ("cache", _cache),
        ("state", _state),
    ]
    for name, check in checks:
        try:
            found = check()
            yield from [found] if isinstance(found, Finding) else found
        except Exception as error:
            yield Finding(name, "missing", f"{type(error).__name__}: {error}", "Reinstall lacuna-ls.")


def report(engine: EngineOptions, *, as_json: bool = False) -> int:
    """Print the findings. Exit code 1 when something is missing without which there are no proposals."""
    found: list[Finding] = []
    if as_json:
        found = list(findings(engine))
        sys.stdout.write(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False) + "\n")
    else:
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False, soft_wrap=True)
        styles: dict[State, tuple[str, str]] = {"ok": ("✓", "green"), "note": ("·", "yellow"), "missing": ("✗", "red")}
        for each in findings(engine):
            found.append(each)
            mark, style = styles[each.state]
            console.print(Text.assemble((f"{mark} {each.name:<9}", style), " ", each.found))
            if each.advice:
                console.print(Text(f"{'':12}{each.advice}", style="bold"))
    return 1 if any(each.state == "missing" for each in found) else 0


def _lacuna() -> Finding:
    from .cli import version

    command = shutil.which("lacuna")
    if command is None:
        where = Path(sys.executable).parent
        return Finding("lacuna", "note", version(), f"The command is not on PATH; editors need {where / 'lacuna'}.")
    return Finding("lacuna", "ok", f"{version()} at {command}")


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", "missing", str(error), "Install it into the same environment: pip install torch")
    return Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        properties = cast(Any, torch.cuda).get_device_properties(0)
        name, gib = properties.name, properties.total_memory / 2**30
        return Finding("gpu", "ok", f"{name}, {gib:.0f} GiB, CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi"):
        advice = "Install a CUDA build of torch to use it (see the install selector of PyTorch's site)."
        return Finding("gpu", "note", "an NVIDIA driver is here, but this torch cannot use it", advice)
    return Finding("gpu", "note", "none; the embedded model runs on the CPU")


def _cpu() -> Finding:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return Finding("cpu", "ok", f"{os.cpu_count()} cores, {platform.machine()}, {capability}")


def _model(engine: EngineOptions) -> Iterator[Finding]:
    """The memory plan of a model folder, and the model itself where the plan says that it fits."""
    from .loading import load_infiller

    advice = "Name another with --model." if engine.model else "Reinstall lacuna-ls: the model comes with it."
    try:
        if engine.model:
            yield from (plan := list(_plan(engine)))
            if plan and plan[-1].state == "missing":
                return
        infiller = load_infiller(Options(engine=engine))
    except LacunaError as error:
        yield Finding("model", "missing", str(error), advice)
        return
    try:
        status = infiller.status()
        found = " ".join(part for part in (status.model, "on", status.device) if part)
        if status.state == "failed":
            trouble = f"{status.device}: {status.detail}"
            yield Finding("model", "missing", trouble, "Start that server, or choose another engine.kind.")
        else:
            yield Finding("model", "ok", found)
    finally:
        infiller.close()


def _plan(engine: EngineOptions) -> Iterator[Finding]:
    """What a model folder will take, from its config alone. Raises: ModelError and its kinds."""
    import torch

    from ..engine.find import find_model
    from ..engine.plan import OTHERWISE, host_bytes, memory_bytes, plan_folder, plan_table

    source = find_model(engine.model)
    if not source.is_dir():
        return
    has_gpu = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if has_gpu else None
    found = plan_folder(source, free, int(engine.vram_cap_gib * 2**30) or None, engine.kv_tokens)
    for name, text in plan_table(found):
        yield Finding("plan", "ok", f"{name:<17}{text}")
    if not found.fits:
        yield Finding("plan", "missing", "it does not fit", found.advice())
    elif not has_gpu and host_bytes(source) > memory_bytes() / 2:
        advice = f"{OTHERWISE[0].upper()}{OTHERWISE[1:]}."
        yield Finding("plan", "missing", "no GPU, and too large for this machine's CPU", advice)


def _grammars() -> Finding:
    from ..infill.languages import LANGUAGES

    wanted = [language for language in LANGUAGES if language.grammar]
    missing = [language.name for language in wanted if language.load() is None]
    names = ", ".join(language.name for language in wanted if language.name not in missing)
    if missing:
        advice = f"Reinstall lacuna-ls; without a grammar {', '.join(missing)} is filled as plain text."
        return Finding("grammars", "note", names, advice)
    return Finding("grammars", "ok", names)


def _folder(name: str, folder: Path) -> Finding:
    parent = folder
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        return Finding(name, "note", str(folder), f"Make {parent} writable for you.")
    free = shutil.disk_usage(parent).free
    if free < MIN_FREE_BYTES:
        return Finding(name, "note", f"{folder}, {free / 2**20:.0f} MiB free", "Make room on that disk.")
    return Finding(name, "ok", f"{folder}, {free / 2**30:.0f} GiB free")


def _cache() -> Finding:
    from platformdirs import user_cache_path

    return _folder("cache", user_cache_path("lacuna"))


def _state() -> Finding:
    from platformdirs import user_state_path

    return _folder("state", user_state_path("lacuna"))

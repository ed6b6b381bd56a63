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

State = Literal["ok", "note", "missing"]

MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. advice: what to do, where something should be done."""

    name: str
    state: State
    found: str
    advice: str = ""


def findings(model: str = "") -> Iterator[Finding]:
    """Everything, in the order of a report. A check that fails is a finding, never an exception."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("lacuna", _lacuna),
        ("python", _python),
        ("torch", _torch),
        ("gpu", _gpu),
        ("cpu", _cpu),
        ("model", lambda: _model(model)),
        ("grammars", _grammars),
        ("cache", _cache),
        ("state", _state),
    ]
    for name, check in checks:
        try:
            yield check()
        except Exception as error:
            yield Finding(name, "missing", f"{type(error).__name__}: {error}", "Reinstall lacuna-ls.")


def report(*, model: str = "", as_json: bool = False) -> int:
    """Print the findings. Exit code 1 when something is missing without which there are no proposals."""
    found: list[Finding] = []
    if as_json:
        found = list(findings(model))
        sys.stdout.write(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False) + "\n")
    else:
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False, soft_wrap=True)
        styles: dict[State, tuple[str, str]] = {"ok": ("✓", "green"), "note": ("·", "yellow"), "missing": ("✗", "red")}
        for each in findings(model):
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


def _model(model: str) -> Finding:
    from .loading import load_infiller
    from .options import EngineOptions, Options

    try:
        infiller = load_infiller(Options(engine=EngineOptions(kind="local", model=model)))
    except Exception as error:
        advice = "Name another with --model." if model else "Reinstall lacuna-ls: the model comes with it."
        return Finding("model", "missing", str(error), advice)
    try:
        status = infiller.status()
        return Finding("model", "ok", " ".join(part for part in (status.model, "on", status.device) if part))
    finally:
        infiller.close()


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

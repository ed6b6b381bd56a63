"""`lacuna doctor`: what was found on this machine, and what to do about what is missing. Changes nothing.

Part of the composition root: it looks into every room, inside functions.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ..engine.errors import LacunaError
from .options import EngineOptions, Options

State = Literal["ok", "note", "missing"]

MIN_FREE_BYTES = 1 << 30

SMI_TIMEOUT_S = 10.0

UNLOAD = "unload its model (the editor's command) or close its editors, and ask again"


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
        ("adapter", lambda: _adapter(engine)),
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
        # in ASCII: no encoding of stdout can spoil it
        sys.stdout.write(json.dumps([asdict(each) for each in found], indent=2) + "\n")
    else:
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False, soft_wrap=True)
        styles: dict[State, tuple[str, str]] = {"ok": ("✓", "green"), "note": ("·", "yellow"), "missing": ("✗", "red")}
        if not _can_show("✓·✗"):
            styles = {"ok": ("+", "green"), "note": ("-", "yellow"), "missing": ("!", "red")}
        for each in findings(engine):
            found.append(each)
            mark, style = styles[each.state]
            console.print(Text.assemble((f"{mark} {each.name:<9}", style), " ", each.found))
            if each.advice:
                console.print(Text(f"{'':12}{each.advice}", style="bold"))
    return 1 if any(each.state == "missing" for each in found) else 0


def _can_show(text: str) -> bool:
    """Whether stdout's encoding has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


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

    from ..engine.threads import num_cores

    capability = torch.backends.cpu.get_cpu_capability()
    return Finding("cpu", "ok", f"{num_cores()} cores, {platform.machine()}, {capability}")


def _model(engine: EngineOptions) -> Iterator[Finding]:
    """The memory plan of a model folder, and the model itself where the plan says that it fits."""
    from ..engine.packed import ProgressLine
    from .loading import load_infiller

    advice = "Name another with --model." if engine.model else "Reinstall lacuna-ls: the model comes with it."
    if engine.is_remote:
        advice = "Name another with --engine."
    try:
        if engine.model:
            yield from (plan := list(_plan(engine)))
            if plan and plan[-1].state != "ok":
                return
        infiller = load_infiller(Options(engine=engine), progress=ProgressLine("loading"), is_lazy=False)
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
    from ..engine.plan import CONTEXT_BYTES, OTHERWISE, host_bytes, memory_bytes, plan_folder, plan_table

    source = find_model(engine.model)
    if not source.is_dir():
        return
    has_gpu = torch.cuda.is_available()
    # asking makes this process's CUDA context, which is gone from the answer and counted by the plan, too
    free = torch.cuda.mem_get_info()[0] + CONTEXT_BYTES if has_gpu else None
    found = plan_folder(source, free, int(engine.vram_cap_gib * 2**30) or None, engine.kv_tokens)
    for name, text in plan_table(found):
        yield Finding("plan", "ok", f"{name:<17}{text}")
    if not found.fits and free is not None and found.available == free:
        yield _too_little(found.total - free, found.advice())
    elif not found.fits:
        yield Finding("plan", "missing", "it does not fit", found.advice())
    elif not has_gpu and host_bytes(source) > memory_bytes() / 2:
        advice = f"{OTHERWISE[0].upper()}{OTHERWISE[1:]}."
        yield Finding("plan", "missing", "no GPU, and too large for this machine's CPU", advice)


def _too_little(missing_bytes: int, advice: str) -> Finding:
    """What a model lacks on the GPU, and who has it where that can be known."""
    users = _gpu_users()
    servers = {pid: size for pid, size in users.items() if _is_server(pid)}
    if sum(servers.values()) >= missing_bytes:
        # nothing is wrong: the model that the user asks about may be the one that runs there
        names = " and ".join(f"process {pid} ({size / 1e9:.1f} GB)" for pid, size in servers.items())
        found = f"it does not fit beside what a running Lacuna server holds: {names}"
        return Finding("plan", "note", found, f"To load it here as well, {UNLOAD}.")
    if not users:
        advice = f"{advice}. If a Lacuna server is running, its model is part of what is missing: {UNLOAD}."
        return Finding("plan", "missing", "it does not fit", advice)
    names = ", ".join(
        f"{'the Lacuna server' if pid in servers else 'process'} {pid} holds {size / 1e9:.1f} GB"
        for pid, size in users.items()
    )
    return Finding("plan", "missing", f"it does not fit: {names}", advice)


def _gpu_users() -> dict[int, int]:
    """Bytes of the first GPU by process, without this one; empty where nvidia-smi is missing or does not say."""
    import torch

    smi = shutil.which("nvidia-smi")
    if smi is None:
        return {}
    uuid = getattr(cast(Any, torch.cuda).get_device_properties(0), "uuid", None)
    which = [] if uuid is None else [f"--id=GPU-{str(uuid).removeprefix('GPU-')}"]
    command = [smi, *which, "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SMI_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return {}
    users: dict[int, int] = {}
    for line in done.stdout.splitlines():
        pid, _, mebibytes = (part.strip() for part in line.partition(","))
        # "[N/A]" where the driver does not tell
        if pid.isdecimal() and mebibytes.isdecimal() and int(pid) != os.getpid():
            users[int(pid)] = int(mebibytes) << 20
    return users


def _is_server(pid: int) -> bool:
    """Whether a process is `lacuna serve`. Known where there is a /proc."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return False
    return "serve" in command and any(Path(part).name in ("lacuna", "lacuna.exe") for part in command)


def _adapter(engine: EngineOptions) -> Finding:
    """What `lacuna adapt` made for this folder, or for the nearest one above it, as the server looks for it."""
    from ..engine.adapter_file import adapter_file, fingerprint, read_header

    here = Path.cwd()
    try:
        found = next((path for place in (here, *here.parents) if (path := adapter_file(place)).exists()), None)
    except OSError as error:
        advice = f"Make {adapter_file(here).parent} readable for you."
        return Finding("adapter", "note", f"cannot be looked for: {error.strerror}", advice)
    if found is None:
        return Finding("adapter", "note", f"none for {here}")
    described = f"{found}, {found.stat().st_size / 1e6:.1f} MB"
    try:
        header = read_header(found)
        about = header.about
        made = about.get("made", "")[:16].replace("T", " ")
        described += f", made {made} UTC for {about.get('workspace', '?')}" if made else ""
        if engine.is_remote:
            return Finding("adapter", "note", f"{described}; a model on a server is used without it")
        belongs = header.base == fingerprint(_source(engine))
    except LacunaError as error:
        return Finding("adapter", "note", f"{described}; it is not used: {error}")
    if not belongs:
        again = "Run `lacuna adapt` again, or `lacuna adapt --remove`."
        return Finding("adapter", "note", f"{described}; made for other weights, so it is not used", again)
    return Finding("adapter", "ok", described)


def _source(engine: EngineOptions) -> Path:
    """Where the model lies. Raises: ModelError and its kinds."""
    if engine.model:
        from ..engine.find import find_model

        return find_model(engine.model)
    from ..engine.modelfile import EMBEDDED

    return EMBEDDED


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
    from ..engine.find import existing

    parent = existing(folder)
    if parent is None:
        advice = f"There is no {folder.anchor}; set HOME or the XDG variables to others."
        return Finding(name, "note", str(folder), advice)
    if not parent.is_dir():
        return Finding(name, "note", str(folder), f"{parent} is no folder; set HOME or the XDG variables to others.")
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
    from .metrics import default_file

    return _folder("state", default_file().parent)

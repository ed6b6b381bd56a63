"""`lacuna tune` and what it leaves: the tiles measured on this machine's GPU, in the user's cache.

The file holds a tile table per device name, and the versions they were measured with: a tile that was best, or that fit
at all, need not be so for another compiler. Whatever is wrong with the file, the shipped tables serve instead. Knows
neither how tiles are measured (kernels/tune.py) nor what they mean (kernels/tiles.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from ..kernels import dispatch, tiles, tune
from ..kernels.tiles import Table
from .errors import DeviceError, LacunaError
from .modelfile import read_json, written_at_once

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)


def cache_file() -> Path:
    """Where the measured tiles are kept. It need not exist."""
    # only here: training imports the engine on machines that have nothing but torch
    from platformdirs import user_cache_path

    return user_cache_path("lacuna") / "tiles.json"


def save(device_name: str, table: Table) -> Path:
    """Keeps a device's table beside those of other devices. Returns the file. Raises: LacunaError when it cannot be
    written.
    """
    path = cache_file()
    try:
        devices = _read(path) or {}
    except (OSError, ValueError):
        # what nobody can read is not worth keeping
        devices = {}
    devices[device_name] = table
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_at_once(path) as waiting:
            waiting.write_text(json.dumps({"made_with": _made_with(), "devices": devices}, indent=1), encoding="utf-8")
    except OSError as error:
        why = error.strerror or error
        raise LacunaError(f"the tiles cannot be stored in {path} ({why}); make room or make it writable") from error
    return path


def forget() -> bool:
    """Removes the file. Returns whether there was one. Raises: LacunaError when it cannot be removed."""
    path = cache_file()
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LacunaError(f"{path} cannot be removed ({error.strerror or error}); remove it by hand") from error
    return True


def apply(device: str = "cuda") -> bool:
    """Puts the stored table of a device's model to work, or else the shipped ones. Returns whether there was one.

    Never raises for what is in the file: a broken one is a line in the log.
    """
    tiles.use({})
    if not torch.cuda.is_available():
        return False
    try:
        name, path = torch.cuda.get_device_name(device), cache_file()
    except ModuleNotFoundError:
        # where there is little but torch, nothing is stored either
        return False
    try:
        devices = _read(path)
        if devices is None:
            logger.info("The tiles in %s are of other versions and not used; `lacuna tune` measures again.", path)
            return False
        if name not in devices:
            return False
        tiles.use({name: _checked(devices[name])})
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        logger.warning("The tiles in %s are not used (%s); `lacuna tune` writes them anew.", path, why)
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """`lacuna tune`: for lsp/cli.py. Progress and complaints go to stderr, the result to stdout. Returns the exit code;
    LacunaErrors pass through.
    """
    parser = argparse.ArgumentParser(
        prog="lacuna tune",
        description="Measure the kernels' tiles on this machine's GPU (under two minutes) and keep the best. "
        "Close what else uses the GPU first.",
    )
    parser.add_argument("--forget", action="store_true", help="remove what was measured; the shipped tiles are used")
    options = parser.parse_args(argv)
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=True)
    if options.forget:
        what = "removed" if forget() else "nothing was stored in"
        out.print(f"{what} {cache_file()}", markup=False)
        return 0
    if (missing := _missing()) is not None:
        sys.stderr.write(f"lacuna: {missing}\n")
        return 1
    name = torch.cuda.get_device_name()
    tuned = _measure(name)
    if not tuned.winners:
        raise DeviceError(f"no tile could be measured on {name}; close what else uses the GPU, then tune again")
    _show(tuned, name, out)
    out.print(f"stored in {save(name, tuned.table)}; servers use it from their next start on", markup=False)
    return 0


def _missing() -> str | None:
    """What keeps this machine from being measured, and what to do about it."""
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            return (
                "this torch is built without CUDA, so there is no GPU to measure; install a CUDA build of torch "
                "if this machine has an NVIDIA GPU. Without one there is nothing to tune"
            )
        return "no CUDA device was found; check the driver with nvidia-smi. Without a GPU there is nothing to tune"
    if not dispatch.has_triton():
        return "Triton is not installed, and tiles are only used by its kernels; install it with pip install triton"
    return None


def _measure(name: str) -> tune.Tuned:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        try:
            tuned = tune.tune(torch.device("cuda"), progress)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"the memory of {name} is too full to measure in; close what else uses the GPU, then tune again"
            ) from error
        if tuned.is_complete:
            total = bar.tasks[0].total
            bar.update(task, completed=total, description=name)
    return tuned


def _show(tuned: tune.Tuned, name: str, out: Console) -> None:
    from rich.table import Table as Grid

    grid = Grid("operation", "at most", title=name)
    for heading in ("before", "after", "gain"):
        grid.add_column(heading, justify="right")
    for winner in tuned.winners:
        unit = "head size" if winner.operation == "attention" else "rows"
        before, gain = f"{1e3 * winner.shipped_ms:.1f} us", "kept"
        if winner.shipped_ms == float("inf"):
            before, gain = "fails", "works"
        elif winner.best_ms < winner.shipped_ms:
            gain = f"{100 * (1 - winner.best_ms / winner.shipped_ms):.0f} %"
        grid.add_row(
            winner.operation,
            f"{winner.rows:g} {unit}",
            before,
            f"{1e3 * winner.best_ms:.1f} us",
            gain,
        )
    out.print(grid)
    if not tuned.is_complete:
        out.print(
            "The time was over before everything was measured; the rest keeps its shipped tiles. Tuning again gets "
            "further: what is compiled by now is kept."
        )


def _made_with() -> str:
    found: list[str] = []
    for package in ("lacuna-ls", "triton"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} none")
    return ", ".join(found)


def _read(path: Path) -> dict[str, object] | None:
    """The stored tables by device name, as they were found; None when they were measured with other versions.

    Raises: OSError, ValueError.
    """
    raw: object = read_json(path)
    stored = cast(dict[str, object], raw) if isinstance(raw, dict) else {}
    devices = stored.get("devices")
    if not isinstance(devices, dict):
        raise ValueError("it holds no devices")
    return cast(dict[str, object], devices) if stored.get("made_with") == _made_with() else None


def _checked(raw: object) -> Table:
    """A stored table, with all that a kernel would trip over; `tiles.use` checks the rest. Raises: ValueError."""
    if not isinstance(raw, dict):
        raise ValueError("a device's entry is no table")
    shipped = tiles.shipped()["default"]
    for operation, entries in cast(dict[str, object], raw).items():
        if operation not in shipped or not isinstance(entries, list) or not entries:
            raise ValueError(f"{operation!r} is not an operation with tiles")
        for entry in cast(list[object], entries):
            if not tiles.is_tile(operation, entry):
                raise ValueError(f"{operation!r} has a tile that is none: {entry!r}")
    return cast(Table, raw)

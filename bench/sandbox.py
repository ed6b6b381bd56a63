"""Run a program that nobody has read: limits on time, memory, files and output, a scratch folder, no network.

What a proposal does when it runs is unknown, so its program gets an empty environment, a process group of its own that
is killed as one, and, where the system allows it, a network namespace without a network. This holds accidents back; it
is no wall against malice, and nothing is executed unless the user asks for it. Knows no benchmark.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

OutcomeKind = Literal["passed", "failed", "timeout", "memory", "not-run"]

MIB = 1 << 20
MAX_OUTPUT_BYTES = 1 * MIB

# limits are set by the process itself before it becomes the program: safe in a program with threads, unlike preexec_fn
_TRAMPOLINE = """
import json, os, sys
limits = json.loads(sys.argv[1])
try:
    import resource
except ImportError:
    resource = None
for name, value in limits.items():
    kind = getattr(resource, name, None)
    if kind is not None:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            pass
os.execvpe(sys.argv[2], sys.argv[2:], os.environ)
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """seconds: of wall clock. memory_mib: of address space (0: none). file_mib: the largest file, output included."""

    seconds: float = 10.0
    memory_mib: int = 1024
    file_mib: int = 64
    num_processes: int = 128


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended. output: the end of what it wrote, both streams."""

    kind: OutcomeKind
    returncode: int
    output: str
    seconds: float

    @property
    def is_passed(self) -> bool:
        return self.kind == "passed"


@functools.cache
def network_wall() -> tuple[str, ...]:
    """The words before a command that take its network away; none where the system does not allow it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    words = (unshare, "--user", "--map-root-user", "--net")
    try:
        done = subprocess.run([*words, "true"], check=False, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ()
    return words if done.returncode == 0 else ()


def num_tasks() -> int:
    """Threads and processes of this user; 0 where the system does not say (not Linux)."""
    user, count = os.getuid() if hasattr(os, "getuid") else -1, 0
    for process in Path("/proc").glob("[0-9]*"):
        # what ends meanwhile does not count
        with suppress(OSError):
            if process.stat().st_uid == user:
                count += sum(1 for _ in (process / "task").iterdir())
    return count


def _limited(command: Sequence[str], limits: Limits) -> list[str]:
    """The words that start a command under its limits."""
    caps = {
        "RLIMIT_CPU": int(limits.seconds) + 2,
        "RLIMIT_FSIZE": limits.file_mib * MIB,
        # outside a namespace of its own the limit counts everything that the user runs
        "RLIMIT_NPROC": limits.num_processes + (0 if network_wall() else num_tasks()),
        "RLIMIT_CORE": 0,
    }
    if limits.memory_mib:
        caps["RLIMIT_AS"] = limits.memory_mib * MIB
    return [*network_wall(), sys.executable, "-I", "-c", _TRAMPOLINE, json.dumps(caps), *command]


def run_limited(
    command: Sequence[str],
    folder: Path,
    limits: Limits,
    *,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run a command in folder, which is also its home. environment: added to an almost empty one."""
    if sys.platform == "win32":
        # neither process groups nor limits, and its exec would come back at once with the code of success
        return Outcome("not-run", -1, "Nothing is executed on Windows: it has no limits for programs.", 0.0)
    plain = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        **(environment or {}),
    }
    begun = perf_counter()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
        given.write(stdin.encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                _limited(command, limits),
                cwd=folder,
                env=plain,
                stdin=given,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome("not-run", -1, str(error), perf_counter() - begun)
        is_late = False
        try:
            process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            is_late = True
        finally:
            # what it started and left behind goes with it
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seconds = perf_counter() - begun
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - MAX_OUTPUT_BYTES))
        text = output.read().decode("utf-8", "replace")
    kind: OutcomeKind = "passed" if process.returncode == 0 else "failed"
    if is_late or process.returncode in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
        kind = "timeout"
    elif kind == "failed" and ("MemoryError" in text or "bad_alloc" in text or "OutOfMemoryError" in text):
        kind = "memory"
    return Outcome(kind, process.returncode, text, seconds)

"""Several windows of one user: what each costs beside the first, and what happens when the one with the model dies.

The servers share one private folder, as those of one user do. All but the one that hosts the model keep asking while
it is killed; the clock runs until each of them proposes something again. Which one hosts is read from its status, so
the kill is Lacuna's only; of another server the memory is told.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import cast

from .client import Json, LspClient, position_at
from .errors import ServerError
from .holes import Progress
from .metrics import percentile
from .subject import Conditions, memory_mib, private_environment, read_items

LINE = "def add_{}(first, second):\n    return first + "
REST = "\n\n\ndef subtract(first, second):\n    return first - second\n"
POLL_S = 0.05
LOAD_S = 1.0
"""How long everybody asks before the host is killed."""


@dataclass(slots=True)
class Window:
    """One server of several. proposed_at: when it proposed something last, of perf_counter."""

    client: LspClient
    uri: str
    num_requests: int = 0
    num_answers: int = 0
    num_errors: int = 0
    proposed_at: float = 0.0

    async def ask(self, timeout_s: float) -> bool:
        """Change the document, ask, and wait for the answer; whether something was proposed."""
        text = LINE.format(self.num_requests)
        old = self.client.text_of(self.uri)
        self.client.change(self.uri, 0, len(old), text + REST)
        self.num_requests += 1
        ident, future = self.client.begin_inline_completion(
            self.uri, position_at(text + REST, len(text)), is_explicit=True
        )
        reply = await self.client.wait(ident, future, timeout_s=timeout_s)
        self.num_answers += 1
        self.num_errors += bool(reply.error)
        is_proposed = bool(read_items(reply.result, text + REST, len(text)))
        if is_proposed:
            self.proposed_at = perf_counter()
        return is_proposed

    async def until_proposed(self, since: float, timeout_s: float) -> float:
        """Keep asking until something is proposed; seconds since then. Raises: ServerError where nothing is."""
        while not await self.ask(timeout_s):
            if perf_counter() - since > timeout_s:
                raise ServerError(f"A window proposed nothing for {timeout_s:g} s.{self.client.last_words()}")
            await asyncio.sleep(POLL_S)
        return self.proposed_at - since

    async def host_pid(self) -> int | None:
        """The process that holds the model, as this server tells it; None where it tells nothing."""
        told = (await self.client.request("lacuna/status", {})).result
        if not isinstance(told, dict):
            return None
        found = re.search(r"hosted by process (\d+)", str(cast(Json, told).get("message", "")))
        return int(found[1]) if found else self.client.pid


async def measure_windows(
    command: Sequence[str], conditions: Conditions, count: int, told: Progress
) -> Json:
    """Open count windows and kill the one with the model. A row of figures; told is given the number of windows ready.

    Raises: ServerError where one does not start, or proposes nothing any more.
    """
    timeout_s = conditions.ready_timeout_s
    with tempfile.TemporaryDirectory(prefix="lacuna-w-", ignore_cleanup_errors=True) as name:
        root = Path(name).resolve()
        windows: list[Window] = []
        try:
            for number in range(count):
                windows.append(await _open(command, conditions, root, number))
                await windows[-1].until_proposed(perf_counter(), timeout_s)
                told(number + 1)
            hosts = [await window.host_pid() for window in windows]
            memory = {window.client.pid: memory_mib(window.client.pid, "VmRSS") for window in windows}
            row: Json = {"windows": count, "num_models": len(set(hosts)) if hosts[0] is not None else None}
            shared = row["num_models"] == 1
            others = [window for window in windows if not shared or window.client.pid != hosts[0]]
            row["host_mib"] = memory.get(hosts[0]) if shared and hosts[0] is not None else None
            row["largest_other_mib"] = max((memory[w.client.pid] or 0.0 for w in others), default=None)
            row["total_mib"] = sum(size or 0.0 for size in memory.values())
            if shared and others:
                row |= await _kill(windows, others, cast(int, hosts[0]), timeout_s)
            return row
        finally:
            await asyncio.gather(*(window.client.stop() for window in windows))


async def _open(command: Sequence[str], conditions: Conditions, root: Path, number: int) -> Window:
    folder = root / f"workspace_{number}"
    folder.mkdir()
    client = await LspClient.start(
        command,
        root=folder,
        environment=private_environment(str(root)),
        initialization_options=conditions.initialization_options,
        settings=conditions.settings,
    )
    window = Window(client, (folder / "code.py").as_uri())
    client.open(window.uri, "python", REST)
    return window


async def _kill(windows: Sequence[Window], others: Sequence[Window], host: int, timeout_s: float) -> Json:
    """Kill the host while the others ask, and wait until each of them proposes again."""
    is_over = asyncio.Event()

    async def keep_asking(window: Window) -> None:
        while not is_over.is_set():
            await window.ask(timeout_s)

    load = [asyncio.create_task(keep_asking(window)) for window in others]
    await asyncio.sleep(LOAD_S)
    before = [window.num_errors for window in others]
    os.kill(host, signal.SIGKILL)
    killed_at = perf_counter()
    is_over.set()
    # what was asked of the dead host is answered, too
    await asyncio.gather(*load)
    waits = await asyncio.gather(*(window.until_proposed(killed_at, timeout_s) for window in others))
    hosts = {await window.host_pid() for window in others}
    return {
        "first_ms": min(waits) * 1000,
        "median_ms": percentile(waits, 50) * 1000,
        "last_ms": max(waits) * 1000,
        "num_models_after": len(hosts),
        "num_requests": sum(window.num_requests for window in others),
        "num_unanswered": sum(window.num_requests - window.num_answers for window in others),
        "num_errors": sum(w.num_errors - b for w, b in zip(others, before, strict=True)),
    }

"""A server under test: started, warmed up, and asked to fill holes as an editor asks while somebody types.

The last characters before the cursor are typed: all but the last key arrive some time before, as a person's do, so
that the server may prepare; with the last key comes the request, and the clock. Knows LSP through client.py only;
what Lacuna's log says beyond the protocol (why it declined, how many forwards) is read where it is there.

Longer than most files here: the values of one question and answer, and the one class that asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, cast

from .client import Json, LspClient, Reply, offset_at, position_at
from .errors import ServerError

READY_POLL_S = 0.1
READY_QUIET_S = 3.0
"""A server that says nothing about loading, and proposes nothing for so long, is taken to be ready."""
LOG_WAIT_S = 0.02
WARM_UP = "def add(first, second):\n    return first + \n\n\ndef subtract(first, second):\n    return first - second\n"
WARM_UP_CURSOR = WARM_UP.index("+ \n") + 2

_LOG = re.compile(r"infill [^ ]*:\d+:\d+ v\S+ (?P<what>.*), [\d.]+ ms$")
_DECLINED = re.compile(r"declined: (?P<reason>[\w -]+)")
_COUNTS = (
    re.compile(r"(?P<source>\S+) \d+ chars, confidence (?P<confidence>[\d.]+), (?P<steps>\d+) steps"),
    re.compile(r"(?P<cached>\d+)\+(?P<prefilled>\d+) tokens"),
    re.compile(r"(?P<forwards>\d+) forwards"),
)
"""What a line may tell, each for itself: a decline tells the work but no source, an older Lacuna no forwards."""
_FILES_READ = re.compile(r"(?P<count>\d+) files of the workspace have been read\.$")


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a server is asked.

    key_ms: time between the keys before the request; think_ms: between the last key and the request (an editor's own
    debounce); num_keys: how many characters before the cursor are typed, the last one with the request.
    """

    is_explicit: bool = False
    num_keys: int = 2
    key_ms: float = 150.0
    think_ms: float = 0.0
    timeout_s: float = 30.0
    ready_timeout_s: float = 180.0
    num_neighbours: int = 2
    initialization_options: Json | None = None
    settings: Json | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One proposal of an answer: text to put in place of [start, end)."""

    text: str
    start: int
    end: int
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """items, best first. declined: why there are none. Times in milliseconds."""

    items: tuple[Item, ...]
    declined: str
    error: str
    request_ms: float
    keystroke_ms: float | None
    told: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the server's log said: source, confidence, steps (of denoising), cached, prefilled, forwards."""


def default_command() -> list[str]:
    """How this installation's own server is started: by its console script, never by `python -m`."""
    beside = Path(sys.executable).with_name("lacuna")
    script = str(beside) if beside.exists() else shutil.which("lacuna")
    if script is None:
        raise ServerError("The command `lacuna` is not installed beside this Python. Name a server with --server.")
    return [script, "serve", "--log-level", "info"]


def parse_command(text: str, what: str = "server command") -> list[str]:
    """Split a command line. Raises: ServerError where it is empty or quoted wrongly."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ServerError(f"The {what} {text!r} cannot be read: {error}.") from error
    if not words:
        raise ServerError(f"The {what} is empty.")
    return words


def read_items(result: Any, document: str, cursor: int) -> tuple[Item, ...]:
    """The items of an answer, an array or an InlineCompletionList; what makes no sense is left out."""
    raw: Any = cast(Json, result).get("items") if isinstance(result, dict) else result
    items: list[Item] = []
    is_array = isinstance(raw, list)
    found = cast("list[Any]", raw) if is_array else []
    for each in found:
        if not isinstance(each, dict):
            continue
        item = cast(Json, each)
        text: Any = item.get("insertText")
        if isinstance(text, dict):
            # a snippet: its tab stops are no text
            text = re.sub(r"\$\{\d+:?([^}]*)\}|\$\d+", r"\1", str(cast(Json, text).get("value", "")))
        if not isinstance(text, str) or not text:
            continue
        start, end = cursor, cursor
        span: Json | None = item.get("range")
        if isinstance(span, dict):
            start, end = offset_at(document, span["start"]), offset_at(document, span["end"])
        items.append(Item(text, start, max(start, end), _confidence(item)))
    return tuple(items)


def _confidence(item: Json) -> float | None:
    """A confidence that a server sends along: in the item, its data, or the arguments of its command."""
    places: list[Any] = [item, item.get("data")]
    command: Any = item.get("command")
    if isinstance(command, dict):
        places += cast(Json, command).get("arguments") or []
    for place in places:
        value: Any = cast(Json, place).get("confidence") if isinstance(place, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def split_keys(text: str, cursor: int, num_keys: int) -> list[str]:
    """The keys that were typed last before cursor, oldest first. A newline and the indentation after it are one key,
    because an editor inserts them at once."""
    keys: list[str] = []
    end = cursor
    while end > 0 and len(keys) < num_keys:
        line_start = text.rfind("\n", 0, end) + 1
        start = end - 1
        if line_start and not text[line_start:end].strip(" \t"):
            start = line_start - 2 if text[line_start - 2 : line_start] == "\r\n" else line_start - 1
        keys.append(text[start:end])
        end = start
    return keys[::-1]


class ServerSubject:
    """One server process under test: ask it within `running`, or call start, then ask, then stop."""

    def __init__(self, command: Sequence[str], conditions: Conditions, root: Path) -> None:
        self.command = list(command)
        self.conditions = conditions
        self.root = root
        self.client: LspClient | None = None
        self.about: Json = {}
        self._status: Json = {}
        self._loading: set[str] = set()
        self._private: tempfile.TemporaryDirectory[str] | None = None
        self._log: list[str] = []
        self._has_log = False
        self._neighbours: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Within, the server is started; afterwards it is stopped. Raises: as start does."""
        try:
            await self.start()
            yield
        finally:
            await self.stop()

    async def start(self) -> None:
        """Start the process and wait until it proposes something, or says that it is ready.

        Raises: ServerError where it does not start or says that it cannot work.
        """
        self._neighbours.clear()
        self._status, self._loading = {}, set()
        # private folders: a model that the user's editors have loaded is not the subject, and the user's own counts
        # are not about the benchmark
        self._private = tempfile.TemporaryDirectory(prefix="lacuna-b-", ignore_cleanup_errors=True)
        self.client = await LspClient.start(
            self.command,
            root=self.root,
            environment=private_environment(self._private.name),
            initialization_options=self.conditions.initialization_options,
            settings=self.conditions.settings,
            on_stderr=self._on_stderr,
        )
        self.client.watch(self._on_notification)
        if "inlineCompletionProvider" not in self.client.capabilities:
            self.about["warning"] = "announces no inline completion"
        await self._warm_up(self.client)

    def _on_stderr(self, line: str) -> None:
        found = _LOG.search(line)
        if found:
            self._has_log = True
            self._log.append(found["what"])
        elif read := _FILES_READ.search(line):
            self.about["num_files_read"] = int(read["count"])

    def _on_notification(self, method: str, params: Any) -> None:
        if method == "$/lacuna/status" and isinstance(params, dict):
            self._status = cast(Json, params)
        elif method == "$/progress" and isinstance(params, dict):
            progress = cast(Json, params)
            token, value = str(progress.get("token")), cast(Json, progress.get("value") or {})
            if value.get("kind") == "begin":
                self._loading.add(token)
            elif value.get("kind") == "end":
                self._loading.discard(token)

    async def _warm_up(self, client: LspClient) -> None:
        uri = (self.root / "warm_up.py").as_uri()
        client.open(uri, "python", WARM_UP)
        begun = perf_counter()
        until = begun + self.conditions.ready_timeout_s
        first_ms: float | None = None
        while perf_counter() < until:
            ident, future = client.begin_inline_completion(uri, position_at(WARM_UP, WARM_UP_CURSOR), is_explicit=True)
            left = max(0.1, until - perf_counter())
            reply = await client.wait(ident, future, method="the warm-up", timeout_s=left)
            if read_items(reply.result, WARM_UP, WARM_UP_CURSOR):
                first_ms = (reply.received_at - client.started_at) * 1000
                break
            if self._status.get("kind") == "error":
                raise ServerError(f"The server cannot work: {self._status.get('message', '')}{client.last_words()}")
            is_quiet = not self._status and not self._loading and perf_counter() - begun > READY_QUIET_S
            if is_quiet or self._status.get("kind") in ("normal", "warning"):
                break
            await asyncio.sleep(READY_POLL_S)
        client.close(uri)
        self.about |= {
            "initialize_ms": client.initialize_ms,
            "first_proposal_ms": first_ms,
            "server": client.server_info,
            "status": self._status,
        }

    async def stop(self) -> None:
        """End the process; note what it used."""
        if self.client is not None:
            self.about["peak_memory_mib"] = memory_mib(self.client.pid, "VmHWM") or self.about.get("peak_memory_mib")
            await self.client.stop()
            self.client = None
        if self._private is not None:
            self._private.cleanup()
            self._private = None

    def cpu_seconds(self) -> float | None:
        """Processor time that the process has used so far; None where the system does not say (not Linux)."""
        try:
            stat = Path(f"/proc/{self._running().pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        # the name, in brackets, may hold blanks
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def show_neighbours(self, others: Mapping[str, tuple[str, str]]) -> None:
        """Have exactly these documents open beside the one that is asked about. uri -> language, text."""
        client = self._running()
        for uri in self._neighbours:
            if uri not in others:
                client.close(uri)
        for uri, (language, text) in others.items():
            if uri not in self._neighbours:
                client.open(uri, language, text)
        self._neighbours = list(others)

    def _running(self) -> LspClient:
        if self.client is None:
            raise ValueError("the subject is not started")
        return self.client

    def open(self, uri: str, language: str, text: str) -> None:
        """Open the document that will be asked about."""
        self._running().open(uri, language, text)

    def edit(self, uri: str, start: int, end: int, new: str) -> None:
        """Put new in place of [start, end) of an open document."""
        self._running().change(uri, start, end, new)

    def close(self, uri: str) -> None:
        """Close it again."""
        with contextlib.suppress(ServerError):
            self._running().close(uri)

    async def type_and_ask(self, uri: str, cursor: int) -> Answer:
        """Type the last keys before cursor in the open document again, and ask with the last.

        The document is opened complete; its last keys are taken back first, unseen by the clock.
        Raises: ServerError when the server ends or does not answer in time.
        """
        client, conditions = self._running(), self.conditions
        document = client.text_of(uri)
        keys = split_keys(document, cursor, conditions.num_keys)
        place = cursor - sum(map(len, keys))
        if keys:
            client.change(uri, place, cursor, "")
        for key in keys[:-1]:
            client.change(uri, place, place, key)
            place += len(key)
            await asyncio.sleep(conditions.key_ms / 1000)
        self._log.clear()
        position = position_at(document, cursor)
        typed_at: float | None = None
        if keys:
            typed_at = perf_counter()
            client.change(uri, place, place, keys[-1])
            if conditions.think_ms > 0:
                await asyncio.sleep(conditions.think_ms / 1000)
        ident, future = client.begin_inline_completion(uri, position, is_explicit=conditions.is_explicit)
        reply = await client.wait(ident, future, method="textDocument/inlineCompletion", timeout_s=conditions.timeout_s)
        return await self._read(reply, document, cursor, typed_at)

    async def _read(self, reply: Reply, document: str, cursor: int, typed_at: float | None) -> Answer:
        until = perf_counter() + LOG_WAIT_S
        while self._has_log and not self._log and perf_counter() < until:
            # the log goes through another pipe and may be read a little later
            await asyncio.sleep(0.001)
        line = self._log[-1] if self._log else ""
        items = read_items(reply.result, document, cursor)
        declined = ""
        if not items:
            reason = _DECLINED.search(line)
            fallback = "superseded" if reply.is_cancelled or reply.result is None else "nothing"
            declined = "error" if reply.error else reason["reason"].strip() if reason else line or fallback
        told: dict[str, str] = {}
        for each in _COUNTS:
            if found := each.search(line):
                told |= found.groupdict()
        keystroke_ms = (reply.received_at - typed_at) * 1000 if typed_at is not None else None
        return Answer(items, declined, reply.error, reply.elapsed_ms, keystroke_ms, told)


def private_environment(folder: str) -> dict[str, str]:
    """Variables under which a server keeps its sockets and its state in folder, not in the user's own."""
    return dict.fromkeys(("XDG_RUNTIME_DIR", "XDG_STATE_HOME"), folder)


def memory_mib(pid: int, field: Literal["VmHWM", "VmRSS"]) -> float | None:
    """The largest (VmHWM) or present (VmRSS) resident size of a process; None where the system does not say (not
    Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else None

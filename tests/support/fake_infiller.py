"""An infiller without a model, for tests of lsp/. What stands in the line of the cursor tells it what to do.

SLEEP<ms>   works that long, polling the cancel flag every 2 ms           CRASH     raises
DECLINE     proposes nothing                                              MANY      proposes up to three
DEAF<ms>    works that long without polling                               ECHO      proposes sha1 of prefix and suffix
AHEAD<ms>   as SLEEP, behind its own proposal only             GUESS     proposes at a confidence of 0.05
BLOCK       proposes lines at the indentation of the line, one deeper; with DEDENT one less deep
Anything else: the proposal is "filled". The environment variable LACUNA_FAKE (JSON): load_ms, load_error, load_crash,
lazy (the model comes with the first request, and tells of its thirds).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lacuna_ls.engine.errors import ModelNotFoundError
from lacuna_ls.infill.request import (
    Cancelled,
    GapFill,
    GapsRequest,
    GapsResult,
    InfillerStatus,
    InfillRequest,
    InfillResult,
    Proposal,
)
from lacuna_ls.lsp.options import Options


def echo(text: str, start: int, end: int) -> str:
    """What ECHO proposes: a text that only the exact prefix and suffix give."""
    return hashlib.sha1(f"{text[:start]}|{text[end:]}".encode()).hexdigest()[:12]


class FakeInfiller:
    """Follows the Infiller protocol; keeps a journal in LACUNA_FAKE's "journal" file, one JSON line per call."""

    def __init__(self, settings: dict[str, object], progress: Callable[[int, int, str], None] | None = None) -> None:
        self._settings, self._progress = settings, progress
        self._is_closed = False
        self._is_unloaded = bool(settings.get("lazy"))
        self._note("load", {})

    def _note(self, what: str, more: dict[str, object]) -> None:
        if journal := self._settings.get("journal"):
            with Path(str(journal)).open("a") as file:
                file.write(json.dumps({"what": what, "time": time.monotonic(), **more}) + "\n")

    def prefetch(self, request: InfillRequest, cancelled: Cancelled | None = None) -> None:
        self._note("prefetch", {"start": request.start, "path": request.path})

    def fill(self, request: InfillRequest, cancelled: Cancelled | None = None) -> InfillResult:
        line = request.text[request.text.rfind("\n", 0, request.start) + 1 : request.start]
        self._note(
            "fill",
            {
                "line": line,
                "before": request.text[: request.start][-200:],
                "after": request.text[request.end :][:200],
                "kind": request.kind,
                "neighbours": [each.path for each in request.neighbours],
                "neighbour_texts": [each.text[:200] for each in request.neighbours],
                "indent": [request.indent.tab_size, request.indent.insert_spaces],
                "deadline_ms": request.deadline_ms,
                "min_confidence": request.min_confidence,
                "num_alternatives": request.num_alternatives,
                "typed": request.typed,
                "explicit": request.is_explicit,
            },
        )
        if "CRASH" in line:
            raise RuntimeError("the fake was told to crash")
        if match := re.search(r"DEAF(\d+)", line):
            time.sleep(int(match.group(1)) / 1000)
        if (match := re.search(r"SLEEP(\d+)|AHEAD(\d+).*filled", line)) and not self._sleep(
            float(match.group(1) or match.group(2)), line, cancelled
        ):
            return InfillResult(is_cancelled=True)
        if "DECLINE" in line:
            return InfillResult(declined="empty")
        texts = ["first", "second", "third"][: request.num_alternatives] if "MANY" in line else ["filled"]
        if "ECHO" in line:
            texts = [echo(request.text, request.start, request.end)]
        if "BLOCK" in line:
            indent = line[: len(line) - len(line.lstrip())]
            last = indent[:-4] if "DEDENT" in line else indent
            texts = [f"if x:\n{indent}    y\n\n{last}z"]
        confidence = 0.05 if "GUESS" in line else 0.9
        if confidence < request.min_confidence:
            return InfillResult(declined="low-confidence")
        return InfillResult(
            tuple(Proposal(request.typed + text, request.start, request.end, confidence) for text in texts)
        )

    def _sleep(self, wait_ms: float, line: str, cancelled: Cancelled | None) -> bool:
        """Wait, polling the cancel flag; whether nobody set it."""
        until = time.monotonic() + wait_ms / 1000
        while time.monotonic() < until:
            if cancelled is not None and cancelled():
                self._note("cancelled", {"line": line})
                return False
            time.sleep(0.002)
        return True

    def fill_gaps(self, request: GapsRequest, cancelled: Cancelled | None = None) -> GapsResult:
        self._note(
            "fill_gaps",
            {
                "text": request.text[:1000],
                "gaps": [[gap.start, gap.end, gap.lead, gap.tail] for gap in request.gaps],
                "jointly": request.jointly,
                "seed": request.seed,
                "choices": list(request.choices),
            },
        )
        if (match := re.search(r"SLEEP(\d+)?", request.text)) and not self._sleep(
            float(match.group(1) or 300), request.text[:100], cancelled
        ):
            return GapsResult(is_cancelled=True)
        if request.choices:
            spans = [request.choices[-1]]
        elif "STUBBORN" in request.text and request.seed < 2:
            # the first two tries change nothing
            spans = [request.text[gap.start : gap.end] for gap in request.gaps]
        else:
            spans = [f"{gap.lead}filled_{number}{gap.tail}" for number, gap in enumerate(request.gaps)]
        declined = "DECLINE" in request.text
        return GapsResult(
            tuple(
                GapFill(
                    gap, None if declined else Proposal(text, gap.start, gap.end, 0.9), "syntax" if declined else ""
                )
                for gap, text in zip(request.gaps, spans, strict=True)
            )
        )

    def index_workspace(
        self, roots: Sequence[str], is_excluded: Callable[[str], bool] | None, is_busy: Callable[[], bool]
    ) -> None:
        self._note("index", {"roots": list(roots)})

    def refresh_files(self, paths: Sequence[str]) -> None:
        self._note("refresh", {"paths": list(paths)})

    def status(self) -> InfillerStatus:
        return InfillerStatus("unloaded" if self._is_unloaded else "ready", "fake", "cpu", "")

    def load(self) -> None:
        self._note("load", {})
        for third in range(1, 4):
            if self._progress is not None and self._is_unloaded:
                self._progress(third, 3, "tensor")
        self._is_unloaded = False

    def unload(self) -> None:
        self._note("unload", {})
        self._is_unloaded = True

    def close(self) -> None:
        self._note("close", {})
        self._is_closed = True


def load(
    options: Options, roots: Sequence[str] = (), progress: Callable[[int, int, str], None] | None = None
) -> FakeInfiller:
    """What create_server is given instead of the real loader."""
    settings: dict[str, object] = json.loads(os.environ.get("LACUNA_FAKE", "{}"))
    time.sleep(float(str(settings.get("load_ms", 0))) / 1000)
    if settings.get("load_error"):
        raise ModelNotFoundError(str(settings["load_error"]))
    if settings.get("load_crash"):
        raise RuntimeError(str(settings["load_crash"]))
    if options.engine.model == "missing":
        raise ModelNotFoundError("There is no model 'missing'. Name a folder that exists.")
    return FakeInfiller(settings, progress)


if __name__ == "__main__":
    from lacuna_ls.lsp.serve import serve

    recording = os.environ.get("LACUNA_FAKE_RECORD")
    serve(
        level=os.environ.get("LACUNA_FAKE_LOG", "info"),
        record=Path(recording) if recording else None,
        with_contents=bool(os.environ.get("LACUNA_FAKE_CONTENTS")),
        load_infiller=load,
    )

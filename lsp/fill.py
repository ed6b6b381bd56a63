"""`lacuna fill`: one gap of one file, in the terminal. Knows files and people; the infilling is infill's."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from ..engine.errors import LacunaError
from ..infill.request import InfillRequest, InfillResult, Proposal
from .options import EngineOptions, Options

CONTEXT_LINES = 4
BYTE_ORDER_MARK = "\ufeff"


def read_text(path: Path) -> str:
    """The file's text with its own line ends. Raises LacunaError for what cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise LacunaError(
            f"{path} is not UTF-8 (byte {error.start} is {error.object[error.start]:#04x}). Convert it first."
        ) from error
    except OSError as error:
        raise LacunaError(f"{path} cannot be read: {error.strerror}. Check the path.") from error


def write_text(path: Path, old: str, new: str) -> None:
    """Put new into the file that held old, whole or not at all, and with the permissions that it has.

    Raises: LacunaError for a file that holds something else by now, or cannot be written.
    """
    # where a link leads to is to be written, not the link
    target = path.resolve()
    if not target.is_file():
        raise LacunaError(f"{path} is not a file that can be written. Leave --write out.")
    if read_text(path) != old:
        raise LacunaError(f"{path} was changed meanwhile, so it stays as it is. Fill it again.")
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not os.access(target.parent, os.W_OK):
            # nothing can be put beside it
            target.write_bytes(new.encode("utf-8"))
            return
        try:
            beside.write_bytes(new.encode("utf-8"))
            shutil.copymode(target, beside)
            if hasattr(os, "chown"):
                about = target.stat()
                with suppress(OSError):
                    os.chown(beside, about.st_uid, about.st_gid)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise LacunaError(f"{path} cannot be written: {error.strerror}. Make it writable, or make room.") from error


def parse_place(place: str, text: str) -> int:
    """Offset of "LINE:COL", both counted from 1, COL in characters. Raises LacunaError when it is not in the text."""
    match = re.fullmatch(r"(\d+):(\d+)", place.strip())
    if match is None:
        raise LacunaError(f"{place!r} is not a place. Write LINE:COL, both counted from 1, for example 12:5.")
    # nobody has a billion lines, and Python reads no number of thousands of digits
    line, column = (int(number[:10]) for number in match.groups())
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
    if not 1 <= line <= len(lines):
        raise LacunaError(f"Line {line} does not exist: the file has {len(lines)} lines.")
    content = lines[line - 1].rstrip("\r\n")
    if not 1 <= column <= len(content) + 1:
        raise LacunaError(f"Column {column} does not exist: line {line} has {len(content)} characters.")
    return sum(map(len, lines[: line - 1])) + column - 1


def make_request(options: argparse.Namespace, text: str) -> InfillRequest:
    """The request that a command line asks for."""
    from ..infill.languages import language_for_path

    kind = options.kind
    if options.at is not None:
        start = end = parse_place(options.at, text)
    else:
        first, dash, second = options.span.partition("-")
        if not dash:
            raise LacunaError(f"{options.span!r} is not a span. Write LINE:COL-LINE:COL, for example 3:1-4:10.")
        start, end = sorted((parse_place(first, text), parse_place(second, text)))
        kind = "span"
    return InfillRequest(
        text=text,
        start=start,
        end=end,
        language=language_for_path(str(options.file)).ids[0],
        path=str(options.file.resolve()),
        kind=kind,
        num_alternatives=max(1, options.alternatives),
        is_explicit=True,
        seed=options.seed,
    )


def fill(options: argparse.Namespace) -> int:
    """Fill, show, and write where asked. Exit code 1 when there is nothing to propose."""
    whole = read_text(options.file)
    # a byte order mark is no character of the first line, and stays in front of it
    text = whole.removeprefix(BYTE_ORDER_MARK)
    request = make_request(options, text)
    from ..engine.packed import ProgressLine
    from .loading import load_infiller

    engine = EngineOptions(kind="local", model=options.model, device=options.device)
    engine = engine.within(options.kv_tokens, options.vram_cap)
    roots = [str(options.file.resolve().parent)]
    infiller = load_infiller(Options(engine=engine), roots, ProgressLine("loading"))
    try:
        result = infiller.fill(request)
    finally:
        infiller.close()
    if options.json:
        # in ASCII: no encoding of stdout can spoil it
        sys.stdout.write(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    else:
        _show(text, result)
    if not result.proposals:
        return 1
    if options.write:
        best = result.proposals[0]
        mark = whole[: len(whole) - len(text)]
        write_text(options.file, whole, mark + text[: best.start] + best.text + best.closing + text[best.end :])
    return 0


def _show(text: str, result: InfillResult) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    if not result.proposals:
        console.print(Text(f"nothing to propose here ({result.declined or 'empty'})", style="yellow"))
    for number, proposal in enumerate(result.proposals, 1):
        if len(result.proposals) > 1:
            console.print(Text(f"-- {number} --", style="dim"))
        console.print(_in_context(text, proposal))
    timings = result.timings
    seen = f"{timings.total_ms:.0f} ms, {timings.num_forwards} forwards, {timings.num_prefilled} tokens read"
    console.print(Text(seen, style="dim"))


def _in_context(text: str, proposal: Proposal) -> object:
    from rich.text import Text

    before = text[: proposal.start].splitlines(keepends=True)[-CONTEXT_LINES:]
    after = text[proposal.end :].splitlines(keepends=True)[:CONTEXT_LINES]
    shown = Text("".join(before), style="dim")
    shown.append(proposal.text, style="bold green")
    shown.append("".join(after).rstrip("\n"), style="dim")
    return shown

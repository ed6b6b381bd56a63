"""What the command lines of this room share: an error is one line, a table keeps all of its columns, and Ctrl-C waits
until what is under way can be kept.

`lacuna` does the first for its own commands (lsp/cli.py, which this room does not know); here it is for those that are
started with `python -m`. Knows no command.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.errors import LacunaError

if TYPE_CHECKING:
    from rich.table import Table


def guarded(command: Callable[[], int | None]) -> int:
    """Run a command. Returns its exit code; 1 after a LacunaError, which becomes a line on stderr; 130 after Ctrl-C."""
    try:
        return command() or 0
    except LacunaError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


@contextmanager
def first_interrupt(
    say: Callable[[], None] = lambda: None, even_if_ignored: bool = False
) -> Generator[Callable[[], bool]]:
    """Within, the first Ctrl-C makes the function that this gives return True, and the second is a KeyboardInterrupt.

    say: called once, when that function is next asked. even_if_ignored: also where the signal was ignored, as a shell
    does for its background jobs. Only the main thread gets signals: elsewhere nothing is heard.
    """
    heard, is_said = False, False
    before = signal.getsignal(signal.SIGINT)
    is_ignored = before is signal.SIG_IGN
    can_hear = threading.current_thread() is threading.main_thread() and (even_if_ignored or not is_ignored)

    def hear(*_: object) -> None:
        nonlocal heard
        heard = True
        signal.signal(signal.SIGINT, signal.default_int_handler if is_ignored else before)

    def is_heard() -> bool:
        nonlocal is_said
        if heard and not is_said:
            is_said = True
            say()
        return heard

    if can_hear:
        signal.signal(signal.SIGINT, hear)
    try:
        yield is_heard
    finally:
        if can_hear:
            signal.signal(signal.SIGINT, before)


def check_writable(path: Path | None) -> None:
    """Find out before long work whether its file can be written after it; the folder is made. Raises: LacunaError."""
    if path is None or (path.exists() and not path.is_file() and not path.is_dir()):
        # a device or a pipe is not touched before there is something to write
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("ab"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise LacunaError(f"{path} cannot be written ({error.strerror}); choose another file") from error


def show(table: Table) -> None:
    """Write to stdout, as wide as the table needs: a terminal that is narrower wraps lines, and nothing is cut."""
    # here, because what builds a corpus on a borrowed machine has no use for it
    from rich.console import Console

    console = Console()
    needed = Console(width=1000).measure(table).maximum
    (console if console.width >= needed else Console(width=needed)).print(table)

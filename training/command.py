"""What the command lines of this room share: an error is one line, and a table keeps all of its columns.

`lacuna` does the first for its own commands (lsp/cli.py, which this room does not know); here it is for those that are
started with `python -m`. Knows no command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
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


def show(table: Table) -> None:
    """Write to stdout, as wide as the table needs: a terminal that is narrower wraps lines, and nothing is cut."""
    # here, because what builds a corpus on a borrowed machine has no use for it
    from rich.console import Console

    console = Console()
    needed = Console(width=1000).measure(table).maximum
    (console if console.width >= needed else Console(width=needed)).print(table)

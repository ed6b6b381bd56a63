"""Starting and ending the process of a language server: logging, guarded stdin and stdout, event loop, exit code.

What takes time to import is imported behind the greeting, which answers `initialize` meanwhile. Knows no protocol;
server.py does.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from ..engine.errors import LacunaError
from .greeting import Greeting
from .wire import guard_stdin, guard_stdout

if TYPE_CHECKING:
    from .record import Recorder
    from .server import LoadInfiller

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""How long the engine thread may hold the interpreter before the event loop gets its turn; Python's own is 5 ms."""


def configure_logging(level: str, log_file: Path | None) -> None:
    """Log to stderr or a file. pygls logs whole messages, so it stays silent below warning at any level.

    Raises: LacunaError when the file cannot be written.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise LacunaError(
                f"The log file {log_file} cannot be written ({error.strerror}). Choose another."
            ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("pygls", "asyncio", "httpx", "urllib3"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # its errors quote the text of documents; rpc.py reports the same without
    logging.getLogger("pygls.protocol.json_rpc").setLevel(logging.CRITICAL)


def serve(
    *,
    level: str = "warning",
    log_file: Path | None = None,
    record: Path | None = None,
    with_contents: bool = False,
    load_infiller: LoadInfiller | None = None,
) -> NoReturn:
    """Serve the client on stdin and stdout until it leaves; then end the process with the code that LSP asks for."""
    stdin, wire = guard_stdin(), guard_stdout()
    configure_logging(level, log_file)
    # first, because nobody should be greeted by a server that ends over a file that it cannot write
    observer = _recorder(record, with_contents=with_contents) if record is not None else None
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if hasattr(signal, "SIGTSTP"):
        # Ctrl-Z in a terminal stops the editor's whole group, but other windows may share the model of this process
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    greeting = Greeting(stdin, wire)
    try:
        code = _run(greeting, stdin, wire, load_infiller, observer)
    except KeyboardInterrupt:
        code = 130
    except Exception:
        # for example a library that is missing
        logger.exception("The server has failed.")
        code = 1
    logging.shutdown()
    sys.stderr.flush()
    # the reader thread sits in a read that nothing can interrupt, and the interpreter would abort over its lock
    os._exit(code)


def _recorder(file: Path, *, with_contents: bool) -> Recorder:
    from .record import Recorder

    return Recorder(file, with_contents=with_contents)


def _run(
    greeting: Greeting,
    stdin: BinaryIO,
    wire: BinaryIO,
    load_infiller: LoadInfiller | None,
    observer: Recorder | None,
) -> int:
    # what is imported stays; looking for garbage in it again and again takes a fifth of the time
    gc.disable()
    import asyncio

    from .loading import load_infiller as load_for_users
    from .server import create_server

    server = create_server(load_infiller or load_for_users)
    server.protocol.observer = observer
    gc.freeze()
    gc.enable()
    try:
        greeting.wait()
        return asyncio.run(server.run(stdin, wire, greeting))
    finally:
        if not server.stop_engine():
            logger.warning("The engine was still computing when the editor left.")

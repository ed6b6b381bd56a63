"""The command `lacuna`: parses arguments and hands over. The composition root: it may import any room, when needed.

Every import of a room is inside the function that needs it, so that `lacuna --version` and the answer to `initialize`
do not wait for torch. Messages go to people: a LacunaError is a line on stderr and exit code 1, without a traceback.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

Command = Callable[[argparse.Namespace], int]

LOG_LEVELS = ("debug", "info", "warning", "error")

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes of what Ctrl-C and SIGTERM end, as a shell tells them."""


def version() -> str:
    """The installed version, or "unknown" in a tree that is not installed."""
    # here, because the greeting would wait for it
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as package_version

    try:
        return package_version("lacuna-ls")
    except PackageNotFoundError:
        return "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line. Returns the exit code: 0 well, 1 it could not be done, 2 it was asked wrongly, 130 Ctrl-C
    ended it, 143 SIGTERM did.
    """
    _mend_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        sys.stdout.write(f"lacuna {version()}\n")
        return 0
    if arguments and (passed := PASSED_ON.get(arguments[0])) is not None:
        _check_folder()
        with _ended_by_sigterm():
            return passed[1](arguments[1:])
    options = _parser().parse_args(arguments)
    command: Command = options.command
    if command is _serve:
        return command(options)
    _check_folder()
    with _ended_by_sigterm():
        return command(options)


def _mend_streams() -> None:
    """What was closed by the caller (`2>&-`) leads nowhere, and what a stream cannot encode becomes a question mark."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # it also takes the descriptor, which the next file would get otherwise
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    # a path may hold bytes that are no text, and a terminal of a plain locale knows no check mark
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def _check_folder() -> None:
    """Raises: LacunaError where the current folder is gone, which ends torch's import without a word to the point."""
    from ..engine.errors import LacunaError

    try:
        Path.cwd()
    except OSError:
        raise LacunaError("The folder that you are in does not exist any more. Change to another (cd ~).") from None


@contextmanager
def _ended_by_sigterm() -> Generator[None]:
    """Within, SIGTERM ends the process as an error would: half-written files and temporary folders are taken away."""
    can_hear = threading.current_thread() is threading.main_thread()
    if not can_hear or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(*_: object) -> NoReturn:
        raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _guarded(command: Callable[[], int]) -> int:
    from ..engine.errors import LacunaError

    try:
        try:
            return command()
        finally:
            # what a pipe or a full disk does not take is found out here, not when the interpreter ends
            sys.stdout.flush()
    except LacunaError as error:
        sys.stderr.write(f"lacuna: {error}\n")
        return 1
    except BrokenPipeError:
        # the reader of a pipe (head, less) has left: not our failure
        _drop_stdout()
        return 0
    except OSError as error:
        _drop_stdout()
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"lacuna: {where}{error.strerror or error}. Check the path, its disk and its permissions.\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{_line_end()}lacuna: interrupted\n")
        return INTERRUPTED
    except SystemExit as end:
        if end.code == TERMINATED:
            sys.stderr.write(f"{_line_end()}lacuna: terminated\n")
        raise


def _line_end() -> str:
    """Before the last words: a line of progress may stand there, not yet ended."""
    return "\n" if sys.stderr.isatty() else ""


def _drop_stdout() -> None:
    """Lead stdout nowhere: what its buffer still holds would be tried again, and complained about, at the end."""
    # a stream of a test has no descriptor
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lacuna", description="Fills the gaps in code, on your own machine.")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def added(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")

    serve = added("serve", "the language server, over stdin and stdout (started by editors)")
    serve.add_argument("--stdio", action="store_true", help="accepted for editors that add it; there is nothing else")
    serve.add_argument("--log-level", choices=LOG_LEVELS, default="warning", help="default: warning")
    serve.add_argument("--log-file", type=Path, metavar="FILE", help="append the log here instead of stderr")
    serve.add_argument("--record", type=Path, metavar="FILE", help="write the session's messages and times to FILE")
    serve.add_argument("--record-contents", action="store_true", help="with the texts, not only their shapes")
    serve.set_defaults(command=_serve)

    fill = added("fill", "fill one gap of a file")
    fill.add_argument("file", type=Path, metavar="FILE")
    where = fill.add_mutually_exclusive_group(required=True)
    where.add_argument("--at", metavar="LINE:COL", help="the cursor, both counted from 1")
    where.add_argument("--span", metavar="LINE:COL-LINE:COL", help="what to replace")
    fill.add_argument("--kind", choices=("auto", "line", "block"), default="auto", help="how much; default: auto")
    fill.add_argument("--alternatives", type=int, default=1, metavar="N", help="show the N best")
    fill.add_argument("--seed", type=int, default=0)
    fill.add_argument("--model", default="", metavar="DIR", help="default: the model that comes with Lacuna")
    fill.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    _add_budgets(fill)
    fill.add_argument("--json", action="store_true", help="print the whole result as JSON")
    fill.add_argument("--write", action="store_true", help="put the best proposal into the file")
    fill.set_defaults(command=_fill)

    doctor = added("doctor", "what was found on this machine, and what to do about what is missing")
    doctor.add_argument("--json", action="store_true", help="print it as JSON")
    doctor.add_argument("--model", default="", metavar="DIR", help="also its memory plan, before anything is loaded")
    doctor.add_argument(
        "--engine", type=_address, default="local", metavar="URL", help="also whether this server answers"
    )
    _add_budgets(doctor)
    doctor.set_defaults(command=_doctor)

    options = added("options", "every option with its type, default and meaning")
    options.add_argument("--format", choices=("markdown", "vscode", "json"), default="markdown")
    options.set_defaults(command=_options)

    metrics = added("metrics", "what was counted on this machine")
    metrics.add_argument("--json", action="store_true", help="print it as JSON")
    metrics.add_argument("--purge", action="store_true", help="delete what was counted, after showing it")
    metrics.set_defaults(command=_metrics)

    replay = added("replay", "send a recorded session to a server again, and compare the times")
    replay.add_argument("file", type=Path, metavar="FILE", help="written by `lacuna serve --record FILE`")
    replay.add_argument("--speed", type=float, default=1.0, help="so many times faster than it was; default: 1")
    replay.set_defaults(command=_replay)

    # listed for --help only: main() hands them their own command lines
    for name, (text, _) in PASSED_ON.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _add_budgets(command: argparse.ArgumentParser) -> None:
    """What a model may take, as in the options."""
    kv_tokens, vram_cap = _as_option("engine.kvTokens", int), _as_option("engine.vramCapGib", float)
    command.add_argument("--kv-tokens", type=kv_tokens, metavar="N", help="as the option engine.kvTokens")
    command.add_argument("--vram-cap", type=vram_cap, metavar="GIB", help="as the option engine.vramCapGib")


def _as_option(name: str, kind: type[int] | type[float]) -> Callable[[str], float]:
    """An argument that takes what the option takes."""

    def read(text: str) -> float:
        from .options import ROWS
        from .settings import check

        row = next(row for row in ROWS if row.name == name)
        try:
            number, problem = check(row, kind(text))
        except ValueError:
            number, problem = 0, "not a number"
        if problem:
            raise argparse.ArgumentTypeError(f"{text!r} is not {row.range_text}")
        return number

    return read


def _address(text: str) -> str:
    """An argument that the option engine.kind takes."""
    if text in ("auto", "local") or text.startswith(("http://", "https://")):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not an address; write it as http://127.0.0.1:8000")


def _serve(options: argparse.Namespace) -> int:
    from ..engine.errors import LacunaError
    from .serve import serve

    if options.record_contents and options.record is None:
        raise LacunaError("--record-contents says what a recording holds. Name its file, too: --record FILE.")
    try:
        Path.cwd()
    except OSError:
        # an editor may have been started in a folder that is gone by now; a server has no business there
        os.chdir(os.sep)

    serve(
        level=options.log_level,
        log_file=options.log_file,
        record=options.record,
        with_contents=options.record_contents,
    )


def _fill(options: argparse.Namespace) -> int:
    from .fill import fill

    return fill(options)


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import report
    from .options import EngineOptions

    engine = EngineOptions(kind=options.engine, model=options.model)
    return report(engine.within(options.kv_tokens, options.vram_cap), as_json=options.json)


def _options(options: argparse.Namespace) -> int:
    import json

    from .options import default_tree, markdown_table, vscode_configuration

    if options.format == "markdown":
        sys.stdout.write(markdown_table())
    else:
        tree = vscode_configuration() if options.format == "vscode" else default_tree()
        sys.stdout.write(json.dumps(tree, indent=2, ensure_ascii=False) + "\n")
    return 0


def _metrics(options: argparse.Namespace) -> int:
    import json

    import attrs

    from .metrics import Metrics, default_file

    metrics = Metrics(default_file())
    counted = attrs.asdict(metrics.result(purge=options.purge))
    is_kept = options.purge and metrics.trouble
    if options.json:
        sys.stdout.write(json.dumps(counted, indent=2) + "\n")
        return 1 if is_kept else 0
    for name, value in counted.items():
        label = name.removeprefix("num_").replace("_", " ")
        sys.stdout.write(f"{label:16} {'-' if value is None else value}\n")
    if options.purge:
        sys.stdout.write("not deleted\n" if is_kept else "deleted\n")
    return 1 if is_kept else 0


def _replay(options: argparse.Namespace) -> int:
    from .record import main as replay

    return replay(options.file, speed=max(0.01, options.speed))


def _bench(arguments: list[str]) -> int:
    from ..bench.cli import run

    return run(arguments)


def _demo(arguments: list[str]) -> int:
    from ..bench.demo import run

    return run(arguments)


def _verify(arguments: list[str]) -> int:
    from ..engine.verify import main as verify

    return verify(arguments)


def _quantize(arguments: list[str]) -> int:
    from ..engine.packed import quantize_main

    return quantize_main(arguments)


def _pull(arguments: list[str]) -> int:
    from ..engine.find import pull_main

    return pull_main(arguments)


def _tune(arguments: list[str]) -> int:
    from ..engine.tuned import main as tune

    return tune(arguments)


def _train(arguments: list[str]) -> int:
    from ..training.train import main as train

    return train(arguments)


def _evaluate(arguments: list[str]) -> int:
    from ..training.evaluate import main as evaluate

    return evaluate(arguments)


def _export(arguments: list[str]) -> int:
    from ..training.export import main as export

    return export(arguments)


def _adapt(arguments: list[str]) -> int:
    from ..training.adapt import main as adapt

    return adapt(arguments)


PASSED_ON: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "bench": ("fill holes cut into a repository snapshot, and report", _bench),
    "demo": ("fill a few holes in code that the model has never seen, and show them", _demo),
    "verify": ("compare the engine with transformers on a checkpoint; check the tensors of a packed one", _verify),
    "pull": ("download a model, after saying how much it is and asking", _pull),
    "quantize": ("write a model in the packed format", _quantize),
    "tune": ("measure kernel tiles on this machine's GPU and keep the best", _tune),
    "adapt": ("fine-tune an adapter of the model on your own repository, or remove it", _adapt),
    "train": ("train the embedded model on a corpus", _train),
    "evaluate": ("measure a model on held-out packages", _evaluate),
    "export": ("pack a training run into one file", _export),
}
"""Commands of other rooms, with command lines of their own: what they do, and how they are called."""

if __name__ == "__main__":
    sys.exit(main())

"""`lacuna adapt REPO`: fine-tunes low-rank adapters of a model on the user's own repository.

Reads what the server would read (ignore files and the deny-list hold, likely secrets are redacted), holds a part of the
files out, trains on the rest (adapt_train.py), shows what that is worth on the part held out (adapt_score.py), and
keeps the adapter where the server finds it (engine/adapter_file.py), unless the model as it is, or the adapter that is
there, does better.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..engine.adapter import Adapter, check_shapes, read_adapter, save_adapter
from ..engine.adapter_file import adapter_file, fingerprint, forget_adapter
from ..engine.checkpoint import load_config
from ..engine.errors import LacunaError, ModelError
from ..engine.find import find_model
from ..engine.modelfile import EMBEDDED
from ..engine.threads import leave_a_core
from ..infill.chat import ChatTokenizer
from ..infill.index import LineIndex, WorkspaceIndexer
from ..infill.languages import language_for_path
from ..infill.load import load_tokenizer
from ..infill.privacy import PathRules, redact
from .adapt_score import CHANCE, KINDS, Change, Score, change, held_out_cases, index_of, score
from .adapt_train import NUM_STEPS, HeldOutLoss, Plan, Told, Trained, load_base, of_chat, train, untold
from .command import check_writable, first_interrupt, guarded
from .corpus import HOLDOUT_THRESHOLD
from .dedupe import find_resembling, signature

HELD_OUT_SHARE = 0.2
MAX_HELD_OUT = 0.35
"""A file that would take the share beyond this is learnt from."""
MIN_CHARS = 8_000
"""Less source text than this teaches nothing that lasts."""

MIN_GAIN = 0.005
"""Nats by which the held-out loss of what is asked for has to fall for an adapter to be kept; less is no difference."""

NUM_HOLES = 600
"""To fill on held-out files: of 180 some ten change either way by chance, more than most adapters are worth."""

DECISIVE = 1.0
"""Standard errors beyond which the holes decide between two models; below, the loss does, which varies less."""

BARE, THERE = "the model as it is", "the adapter that was there"
STAYS = f"; {THERE} stays"

BUSY = ("reading", "holes before", "loss before", "training", "holes after")
"""What is going on, in this order."""


class Files:
    """Texts of a repository, as Batches and cases want them; a text is drawn by its length."""

    def __init__(self, texts: Sequence[tuple[str, str]]) -> None:
        """texts: path inside the repository, and contents."""
        self._texts = list(texts)
        lengths = np.array([len(text) for _, text in texts], np.float64)
        self.sample_weights: npt.NDArray[np.float64] = lengths / max(1.0, float(lengths.sum()))

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, i: int) -> str:
        return self._texts[i][1]

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self._texts]

    def files(self) -> list[dict[str, str]]:
        return [{"package": path, "language": language_for_path(path).ids[0]} for path, _ in self._texts]

    @property
    def num_chars(self) -> int:
        return sum(len(text) for _, text in self._texts)


class _Collector(LineIndex):
    """Keeps whole files where the server's index keeps their lines."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}

    def update(
        self, path: str, text: str, generation: int | None = None, cancelled: Callable[[], bool] | None = None
    ) -> bool:
        self.texts[path] = redact(text.replace("\r\n", "\n"))
        return True


def read_repository(repo: Path, deny: Sequence[str] = (), told: Told = untold) -> list[tuple[str, str]]:
    """(path, text) of every file that the server would read in this folder, by path, likely secrets redacted.

    deny: more patterns in gitignore's syntax. Raises: LacunaError where there is no folder.
    """
    root = repo.expanduser().resolve()
    if not root.is_dir():
        raise LacunaError(f"{repo} is not a folder; name the folder of a repository")
    found, rules = _Collector(), PathRules([root], deny)
    indexer = WorkspaceIndexer(found, [root], rules.is_excluded)
    while indexer.step(200.0):
        told("reading", 0.0, f"{len(found.texts)} files")
    return sorted((Path(path).relative_to(root).as_posix(), text) for path, text in found.texts.items())


def split(texts: Sequence[tuple[str, str]], seed: int = 0) -> tuple[Files, Files]:
    """(to train on, held out): whole files at a seed, about HELD_OUT_SHARE of the text; near-copies of those are in
    neither. Raises: LacunaError where there is too little.

    A file's place in the order is its own: what one run holds out is held out by the next, though files have come and
    gone, or an adapter would be judged by what it has learnt.
    """
    shuffled = sorted(texts, key=lambda each: hashlib.sha256(f"{seed} {each[0]}".encode("utf-8", "replace")).digest())
    total, num_chars = sum(len(text) for _, text in shuffled), 0
    held: list[tuple[str, str]] = []
    for each in shuffled:
        # a file that is most of the repository is what there is to learn from
        if num_chars < HELD_OUT_SHARE * total and num_chars + len(each[1]) <= MAX_HELD_OUT * total:
            held.append(each)
            num_chars += len(each[1])
    if shuffled and not held:
        held = [min(shuffled, key=lambda each: len(each[1]))]
    rest = [each for each in shuffled if each not in held]
    if rest and held:
        mine, theirs = (
            np.stack([signature(text.encode("utf-8", "replace")) for _, text in part]) for part in (rest, held)
        )
        near = find_resembling(mine, theirs, HOLDOUT_THRESHOLD)
        rest = [each for i, each in enumerate(rest) if i not in near]
    own = Files(rest)
    if total < MIN_CHARS or own.num_chars < MIN_CHARS // 2:
        what = f"{len(shuffled)} files with {total:,} characters of source text"
        if total >= MIN_CHARS:
            what += f", of which {own.num_chars:,} are no near-copies of what is held out,"
        raise LacunaError(f"{what} are too little to learn from; name the folder of a larger repository")
    return own, Files(held)


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on the held-out files. score: None where no holes were filled; loss: None where it cannot be known."""

    loss: HeldOutLoss | None
    score: Score | None


@dataclass(frozen=True, slots=True)
class Adapted:
    """What a run of the command came to. bare: the model as it is. there: with the adapter there now, if there is one
    for this model. new: with what was learnt.

    path: the file that was written; None where nothing is kept, and then `why`. is_fair: whether the adapter there now
    has learnt from none of the files that are held out, as far as can be known; otherwise it is shown, and no more.
    """

    trained: Trained
    bare: Measured
    there: Measured | None
    new: Measured
    path: Path | None
    why: str = ""
    is_fair: bool = True


def adapt(
    repo: Path,
    source: Path,
    device: str,
    plan: Plan,
    num_holes: int,
    deny: Sequence[str],
    told: Told = untold,
    say: Callable[[str], None] = lambda _: None,
) -> Adapted:
    """The whole command. num_holes: for the exact matches, 0 for none. say: what the user is to read meanwhile.

    The new adapter replaces the one that is there, unless it is worse than that or than the model as it is. Ctrl-C ends
    the training, and what was learnt is judged as ever; another one is a KeyboardInterrupt, which changes nothing.
    Raises: LacunaError.
    """
    told("reading", 0.0, "")
    texts = read_repository(repo, deny, told)
    told("reading", 0.5, f"{len(texts)} files")
    own, held_out = split(texts, plan.seed)
    todo = held_out_cases(held_out, num_holes, plan.seed) if num_holes else []
    index = index_of(own.paths, [own.text(i) for i in range(len(own))])
    told("reading", 1.0, f"{len(texts)} files")
    sizes = [f"{len(part)} ({part.num_chars / 1e3:,.0f} kB)" for part in (own, held_out)]
    say(f"files to learn from: {sizes[0]}; held out: {sizes[1]}")
    tokenizer = load_tokenizer(source)
    if isinstance(tokenizer, ChatTokenizer):
        plan = of_chat(plan)
    old = adapter_there(repo, source, say)

    def scored(what: str, adapter: Adapter | None, part: int = 0, num_parts: int = 1) -> Score | None:
        def filled(number: int) -> None:
            told(what, (part + number / len(todo)) / num_parts, f"hole {number} of {len(todo)}")

        return score(source, device, adapter, todo, index, filled) if todo else None

    num_parts = 1 if old is None else 2
    score_bare = scored("holes before", None, 0, num_parts)
    score_there = scored("holes before", old, 1, num_parts) if old else None
    model = load_base(source, device)
    with first_interrupt(
        lambda: say("stopping; what was learnt so far is measured next (Ctrl-C again: drop it)")
    ) as stopped:
        trained = train(model, tokenizer.to_json(), own, held_out, plan, told, old, stopped)
    del model
    adapter = Adapter(fingerprint(source), trained.factors, 1.0, _about(repo, trained, own, held_out, plan))
    bare, there = Measured(trained.before, score_bare), Measured(trained.there, score_there) if old else None
    is_fair = old is None or old.about.get("split") == _split_name(plan)
    if trained.gain < MIN_GAIN:
        new, why = Measured(trained.after, None), "the held-out loss of what is asked for did not fall"
    else:
        # what is measured is what a file would hold
        new, why = Measured(trained.after, scored("holes after", adapter)), ""
        if is_worse(new, bare, plan.encoder_weight):
            why = "it does worse on the held-out files than the model as it is"
        elif there is not None and is_fair and is_worse(new, there, plan.encoder_weight):
            why = "it does worse on the held-out files than the adapter that is there"
    path = None if why else adapter_file(repo)
    if path is not None:
        with uninterrupted():
            save_adapter(adapter, path)
    return Adapted(trained, bare, there, new, path, why, is_fair)


def adapter_there(repo: Path, source: Path, say: Callable[[str], None]) -> Adapter | None:
    """The adapter of this folder that the server would load now. say: told of one that is of no use."""
    path = adapter_file(repo)
    if not path.exists():
        return None
    try:
        found = read_adapter(path)
        if found.base == fingerprint(source):
            check_shapes(found, load_config(source))
            return found
    except ModelError as error:
        say(f"the adapter that is there cannot be used: {error}")
        return None
    say("the adapter that is there was made for another model")
    return None


def check_place(path: Path) -> None:
    """Find out before the training whether an adapter can be stored after it; makes the folder. Raises: LacunaError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.exists()
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        why = error.strerror or error
        raise LacunaError(f"the adapter cannot be stored in {path} ({why}); make that folder writable") from error


def is_worse(new: Measured, old: Measured, encoder_weight: float) -> bool:
    """By holes that are filled exactly, as served, where these differ by enough; else by the loss."""
    if new.score is not None and old.score is not None:
        deviation = change(old.score, new.score).deviation
        if abs(deviation) > DECISIVE:
            return deviation < 0
    if new.loss is None or old.loss is None:
        return False
    return new.loss.asked_for(encoder_weight) > old.loss.asked_for(encoder_weight) + MIN_GAIN


@contextmanager
def uninterrupted() -> Generator[None]:
    """Within, Ctrl-C is not heard: for what takes an instant."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _split_name(plan: Plan) -> str:
    """Runs of the same name hold the same files out."""
    return f"sha256 {plan.seed}"


def _about(repo: Path, result: Trained, own: Files, held_out: Files, plan: Plan) -> dict[str, str]:
    return {
        "workspace": str(repo.expanduser().resolve()),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": str(len(own)),
        "held_out_files": str(len(held_out)),
        "split": _split_name(plan),
        "steps": str(result.steps),
        "loss_before": f"{result.before.middle:.4f}",
        "loss_after": f"{result.after.middle:.4f}",
    }


class Bars:
    """Told what is going on, shows a line for each part of the work, 80 columns wide."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, share: float, figures: str) -> None:
        if what not in self._tasks:
            for each in self._tasks.values():
                self.progress.update(each, completed=1.0)
            self._tasks[what] = self.progress.add_task(f"{what:<{max(map(len, BUSY))}}", total=1.0, figures="")
        self.progress.update(self._tasks[what], completed=share, figures=f"{figures:<30}")


def table(found: Adapted) -> Table:
    """The models side by side on the held-out files."""
    columns = {"as it is": found.bare, "there now": found.there, "new": found.new}
    models = {name: each for name, each in columns.items() if each is not None}
    grid = Table("on the held-out files")
    for name in models:
        grid.add_column(name, justify="right")
    rows: list[tuple[str, Callable[[HeldOutLoss], float]]] = [
        ("loss of what is asked for (nats)", lambda loss: loss.middle),
        ("the same from noise", lambda loss: loss.canvas),
        ("loss of what stands around it", lambda loss: loss.context),
    ]
    for label, read in rows:
        grid.add_row(label, *("" if each.loss is None else f"{read(each.loss):.3f}" for each in models.values()))
    if found.bare.score is not None:
        for kind in (*KINDS, None):
            rates = [each.score.percent(kind) if each.score else float("nan") for each in models.values()]
            grid.add_row(f"exact %, as served, {kind or 'all'}", *(_percent(rate) for rate in rates))
        rates = [each.score.percent(is_alone=True) if each.score else float("nan") for each in models.values()]
        grid.add_row("exact %, without drafts, all", *(_percent(rate) for rate in rates))
    return grid


def _percent(rate: float) -> str:
    return "" if rate != rate else f"{rate:.1f}"


def changes(found: Adapted) -> Mapping[str, Change]:
    """The new adapter beside the others, by what it is compared with; empty where no holes were filled."""
    others = {BARE: found.bare, THERE: found.there}
    new = found.new.score
    return {
        name: change(other.score, new) for name, other in others.items() if new and other is not None and other.score
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="lacuna adapt",
        description="Fine-tune a small adapter of the model on a repository. Nothing leaves this machine, and the "
        "model's own file stays as it is.",
    )
    parser.add_argument("repo", type=Path, nargs="?", default=Path(), help="folder of the repository (default: here)")
    parser.add_argument("--remove", action="store_true", help="remove the repository's adapter")
    parser.add_argument("--minutes", type=float, default=10.0, help="longest time to train; default: 10")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help=f"most steps; default: {NUM_STEPS}")
    parser.add_argument("--model", default="", help="default: the model that comes with Lacuna")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rank", type=int, default=16, help="default: 16")
    parser.add_argument("--holes", type=int, default=NUM_HOLES, help="held-out holes to fill before and after; 0: none")
    parser.add_argument("--deny", action="append", default=[], metavar="PATTERN", help="more files not to read")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: one core less than there are")
    parser.add_argument("--seed", type=int, default=0, help="of the files that are held out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    args = parser.parse_args(argv)
    out = Console(highlight=False, soft_wrap=True)
    try:
        # before Python 3.13 also links that lead to each other
        args.repo.expanduser().resolve()
    except RuntimeError:
        raise LacunaError(f"{args.repo} does not exist; name the folder of a repository") from None
    if args.remove:
        gone = forget_adapter(args.repo)
        what = f"removed {gone}" if gone else f"{args.repo} has no adapter"
        out.print(f"{what}; servers use the model as it is from their next start on", markup=False)
        return 0
    # said so that no number at all, NaN, is refused, too
    if not 1 <= args.rank <= 256 or not args.minutes > 0 or args.steps < 1:
        parser.error("--rank is from 1 to 256, --minutes and --steps are above 0")
    if args.holes < 0 or args.threads < 0:
        parser.error("--holes and --threads are not below 0")
    leave_a_core()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    source = find_model(args.model) if args.model else EMBEDDED
    plan = Plan(minutes=args.minutes, max_steps=args.steps, rank=args.rank, seed=args.seed)
    console = Console(stderr=True, highlight=False)
    bars = Bars(console)
    if args.repo.expanduser().is_dir():
        check_place(adapter_file(args.repo))
    check_writable(args.json)
    was_there = adapter_file(args.repo).exists()

    def say(text: str) -> None:
        console.print(text, markup=False)

    try:
        with bars.progress:
            found = adapt(args.repo, source, device, plan, args.holes, args.deny, bars, say)
    except KeyboardInterrupt:
        out.print(f"stopped; nothing new is kept{STAYS if was_there else ''}")
        return 130
    if args.json:
        args.json.write_text(json.dumps(_figures(found), indent=1), encoding="utf-8")
    return _report(found, args.repo, was_there, out)


def _report(found: Adapted, repo: Path, was_there: bool, out: Console) -> int:
    """Print what came of it. Returns the exit code: 1 where nothing new is kept."""
    out.print(table(found))
    changed = changes(found)
    for name, each in changed.items():
        out.print(f"of {each.num_holes} holes, against {name}: {each}", markup=False)
    if found.there is not None and not found.is_fair:
        out.print("The adapter that was there may have learnt from some of the held-out files: its figures flatter it.")
    said = f"{found.trained.steps} steps in {found.trained.seconds / 60:.1f} minutes"
    said += ", then stopped" if found.trained.is_stopped else ""
    if found.path is None:
        out.print(f"{said}: {found.why}, so nothing new is kept{STAYS if was_there else ''}")
        return 1
    size = found.path.stat().st_size / 1e6
    replaced = " in place of the one that was there" if was_there else ""
    out.print(f"{said}; {size:.1f} MB stored in {found.path}{replaced}", markup=False)
    if BARE in changed and abs(changed[BARE].deviation) <= CHANCE:
        out.print("What is served differs by no more than chance may do: what is surely lower is the loss.")
    out.print("Servers use it from their next start on. To undo this: lacuna adapt --remove", repo, markup=False)
    return 0


def _figures(found: Adapted) -> dict[str, Any]:
    """For --json: losses in nats, exact matches in percent."""
    models = {"before": found.bare, "there": found.there, "after": found.new}
    return {
        "losses": {name: asdict(each.loss) for name, each in models.items() if each and each.loss},
        "scores": {name: each.score.to_json() for name, each in models.items() if each and each.score},
        "changes": {name: {**asdict(each), "error": each.error} for name, each in changes(found).items()},
        "steps": found.trained.steps,
        "seconds": found.trained.seconds,
        "is_stopped": found.trained.is_stopped,
        "bytes": found.path.stat().st_size if found.path else 0,
    }


if __name__ == "__main__":
    raise SystemExit(guarded(main))

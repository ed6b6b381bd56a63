"""Write a document with its cursor in it, and fill it with a canned answer: for tests of infill/."""

from __future__ import annotations

from collections.abc import Mapping

from canned_engine import CannedEngine, byte_tokenizer
from lacuna_ls.infill.index import LineIndex
from lacuna_ls.infill.infiller import LocalInfiller
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.pose import Policy
from lacuna_ls.infill.request import InfillRequest
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.span import Gap, Scene
from lacuna_ls.infill.syntax import SyntaxTree

CURSOR = "‸"


TOKENIZER = byte_tokenizer()
BYTE_POLICY = Policy(num_rows_line=400, num_rows_block=900)
"""One token per byte needs more rows than real tokens do."""


def asked(marked: str, language: str = "python", **options) -> InfillRequest:
    """A request from a text with one cursor mark in it, or two around a span."""
    start = marked.index(CURSOR)
    text = marked.replace(CURSOR, "", 1)
    end = text.index(CURSOR) if CURSOR in text else start
    return InfillRequest(text.replace(CURSOR, ""), start, end, language, **options)


def seen(marked: str, language: str = "python") -> tuple[Scene, Gap]:
    """A text with one | in it as it is seen there, and the gap to the end of its line."""
    at = marked.index("|")
    text = marked[:at] + marked[at + 1 :]
    here = Snapshot(text)
    return Scene(here, SyntaxTree.around(language_for(language), text, at, at), here.indent(at)), Gap(at, at, "rest")


def indexed(files: Mapping[str, str]) -> LineIndex:
    """An index of these files, by path."""
    index = LineIndex()
    for path, text in files.items():
        index.update(path, text)
    return index


def infiller(answer, **options) -> LocalInfiller:
    """A LocalInfiller whose engine answers with the given text."""
    logprob = options.pop("logprob", -0.01)
    return LocalInfiller(CannedEngine(TOKENIZER, answer, logprob), TOKENIZER, policy=BYTE_POLICY, **options)


def filled(marked: str, answer, language: str = "python", **options) -> str:
    """The text with the first proposal in place, or "(reason)" where it was declined."""
    request = asked(marked, language, **options)
    result = infiller(answer).fill(request)
    if not result.proposals:
        return f"({result.declined})"
    return applied(request.text, result.proposals[0])


def applied(text: str, proposal) -> str:
    return text[: proposal.start] + proposal.text + text[proposal.end :]

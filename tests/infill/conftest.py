"""A tokenizer without training and a way to write a document with its cursor in it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from lacuna_ls.infill.infiller import LocalInfiller
from lacuna_ls.infill.pose import Policy
from lacuna_ls.infill.request import InfillRequest

CURSOR = "‸"


def _support(name: str):
    path = Path(__file__).resolve().parent.parent / "support" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"lacuna_test_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake = _support("fake_engine")
TOKENIZER = fake.byte_tokenizer()
BYTE_POLICY = Policy(num_rows_line=400, num_rows_block=900)
"""One token per byte needs more rows than real tokens do."""


def asked(marked: str, language: str = "python", **options) -> InfillRequest:
    """A request from a text with one cursor mark in it, or two around a span."""
    start = marked.index(CURSOR)
    text = marked.replace(CURSOR, "", 1)
    end = text.index(CURSOR) if CURSOR in text else start
    return InfillRequest(text.replace(CURSOR, ""), start, end, language, **options)


def infiller(answer, **options) -> LocalInfiller:
    """A LocalInfiller whose engine answers with the given text."""
    logprob = options.pop("logprob", -0.01)
    return LocalInfiller(fake.FakeEngine(TOKENIZER, answer, logprob), TOKENIZER, policy=BYTE_POLICY, **options)


def filled(marked: str, answer, language: str = "python", **options) -> str:
    """The text with the first proposal in place, or "(reason)" where it was declined."""
    request = asked(marked, language, **options)
    result = infiller(answer).fill(request)
    if not result.proposals:
        return f"({result.declined})"
    return applied(request.text, result.proposals[0])


def applied(text: str, proposal) -> str:
    return text[: proposal.start] + proposal.text + text[proposal.end :]


@pytest.fixture
def tokenizer():
    return TOKENIZER

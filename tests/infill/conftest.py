"""The helpers of tests/support are importable by their own names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))


@pytest.fixture(scope="session")
def tokenizer():
    """One token per byte."""
    from infill_cases import TOKENIZER

    return TOKENIZER

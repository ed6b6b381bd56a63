"""The baseline with a model: what it is asked. The others are tested with the benchmark."""

from __future__ import annotations

from infill_cases import TOKENIZER
from lacuna_ls.engine import reference
from lacuna_ls.infill import load
from lacuna_ls.infill.baselines import Context, generated


def test_transformers_reads_plain_newlines_too(monkeypatch):
    prompts = []

    class Reference:
        canvas_length = 8

        def __init__(self, source):
            pass

        def generate(self, prompt, num_rows):
            prompts.append(prompt)
            return (*TOKENIZER.encode("f(1)"), TOKENIZER.eos)

    monkeypatch.setattr(reference, "Reference", Reference)
    monkeypatch.setattr(load, "load_tokenizer", lambda source: TOKENIZER)
    text = "a = 1\r\nx = \r\nb = 2\r\n"
    at = text.index("x = ") + 4
    assert generated()(Context(text, at)) == "f(1)"
    plain = text.replace("\r\n", "\n")
    generated()(Context(plain, plain.index("x = ") + 4))
    assert prompts[0] == prompts[1]

"""The text side of a vLLM server: chat completions, for a model whose tokenizer is not here.

Token ids are code points on this side, so that everything above stays as it is. What the server says of its own tokens
is put on the first code point of each. Knows the shape of the API; sends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

PATH = "/v1/chat/completions"

CHARS_PER_TOKEN = 2
"""Fewer characters than a token of code has, so that an answer is not cut off."""


def body_of(model: str, prompt: Sequence[int], num_chars: int, seed: int) -> dict[str, Any]:
    """The request for an answer of at most num_chars characters to prompt, the text of one turn."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": "".join(map(chr, prompt))}],
        "max_tokens": max(16, num_chars // CHARS_PER_TOKEN),
        "temperature": 0.0,
        "seed": seed,
        "logprobs": True,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def read(answer: dict[str, Any]) -> tuple[list[int], list[float], bool]:
    """Code points, natural-log probabilities, and whether the answer was cut off.

    Raises: KeyError, IndexError, TypeError or ValueError for what is no chat completion.
    """
    choice = answer["choices"][0]
    text = choice["message"]["content"]
    if not isinstance(text, str):
        raise TypeError("the content is no text")
    values: list[float] = []
    logprobs: Any = choice.get("logprobs") or {}
    for entry in cast(list[dict[str, Any]], logprobs.get("content") or []):
        piece = str(entry["token"])
        values += [float(entry["logprob"]), *[0.0] * (len(piece) - 1)] if piece else []
    if len(values) != len(text):
        # pieces of characters, or no probabilities: nothing is known of single ones
        values = [0.0] * len(text)
    return [ord(character) for character in text], values, choice.get("finish_reason") == "length"

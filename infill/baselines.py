"""What costs nothing: proposals without a model, to be measured beside the model in the same table.

*empty* proposes nothing. *copy* takes the most similar line of the file and its neighbours (or the block under it,
where a block is wanted). *n-gram* goes on with the longest context seen there. All of them see what a server sees, the
document with the hole in it and neighbouring files, and none is told what kind of hole it is.

`generated` is one with a model, but without this project: the checkpoint through transformers' own `generate`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

MAX_LINES = 12
NGRAM_ORDER = 6
MAX_TOKENS = 64
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+|[ \t]+|\n[ \t]*|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Context:
    """What a baseline is given: the document with the hole, the cursor in it, and the neighbouring files' texts."""

    document: str
    cursor: int
    neighbours: tuple[str, ...] = ()


Baseline = Callable[[Context], str]


def empty(context: Context) -> str:
    """Propose nothing."""
    del context
    return ""


def copy_similar_line(context: Context) -> str:
    """The line whose surroundings are most like the cursor's: same beginning, similar lines above and below."""
    before, after = context.document[: context.cursor], context.document[context.cursor :]
    lead = before[before.rfind("\n") + 1 :]
    typed = lead.lstrip()
    above = _last_words(before[: len(before) - len(lead)])
    below = _first_words(after.split("\n", 1)[1] if "\n" in after else "")
    rest = after.split("\n", 1)[0].rstrip()
    best, best_score = "", 0.0
    for text, hole_line in [(context.document, before.count("\n")), *((text, -1) for text in context.neighbours)]:
        lines = _lines(text)
        for number, line in enumerate(lines):
            body = line.strip()
            if number == hole_line or not body.startswith(typed) or len(body) <= len(typed):
                continue
            given = body[len(typed) :]
            if rest:
                if not given.endswith(rest) or given == rest:
                    continue
                given = given[: -len(rest)]
            score = 2 * len(typed) / (len(typed) + 8)
            score += _overlap(above, _words_near(lines, number, -1)) + _overlap(below, _words_near(lines, number, 1))
            if score > best_score:
                best_score, best = score, given if typed or rest else _with_block(lines, number, lead, before)
    return best


@lru_cache(maxsize=256)
def _lines(text: str) -> list[str]:
    # neighbours come again and again
    return text.split("\n")


def _with_block(lines: Sequence[str], number: int, lead: str, before: str) -> str:
    """The line, with the lines of its block when the line above the cursor opens one; moved to the cursor's indent."""
    line = lines[number]
    width = len(line) - len(line.lstrip())
    taken = [line.strip()]
    if before.rstrip().endswith((":", "{")):
        for follower in lines[number + 1 : number + MAX_LINES]:
            indent = len(follower) - len(follower.lstrip())
            if follower.strip() and indent < width:
                break
            taken.append(lead + follower[width:].rstrip() if follower.strip() else "")
    return "\n".join(taken).rstrip()


def _words(line: str) -> frozenset[str]:
    return frozenset(_WORD.findall(line))


def _last_words(text: str) -> frozenset[str]:
    return _words(text.rstrip().rsplit("\n", 1)[-1])


def _first_words(text: str) -> frozenset[str]:
    return _words(text.lstrip().split("\n", 1)[0])


def _words_near(lines: Sequence[str], number: int, step: int) -> frozenset[str]:
    number += step
    while 0 <= number < len(lines):
        if lines[number].strip():
            return _words(lines[number])
        number += step
    return frozenset()


def _overlap(first: frozenset[str], second: frozenset[str]) -> float:
    union = len(first | second)
    return len(first & second) / union if union else 0.0


def ngram(context: Context) -> str:
    """Greedy continuation by the longest context of at most NGRAM_ORDER - 1 tokens that was seen in these files.

    Ends with the line (with the block, where one is wanted), or where the text right of the cursor goes on.
    """
    before, after = context.document[: context.cursor], context.document[context.cursor :]
    indices = [_index(before), _index(after), *(_indexed(text) for text in context.neighbours)]
    right: list[str] = _TOKEN.findall(after.split("\n", 1)[0].strip())
    tokens: list[str] = _TOKEN.findall(before[-4000:])[-NGRAM_ORDER:]
    wants_block = _wants_block(before)
    width = len(before) - before.rfind("\n") - 1
    num_given, depth = len(tokens), 0
    while len(tokens) - num_given < MAX_TOKENS:
        token = _next(indices, tokens)
        if token is None or (token.startswith("\n") and (not wants_block or len(token) - 1 < width)):
            break
        if right and token == right[0] and depth <= 0:
            break
        depth += (token in "([{") - (token in ")]}")
        tokens.append(token)
    return "".join(tokens[num_given:]).rstrip()


def _wants_block(before: str) -> bool:
    """Whether the cursor stands on an empty line under a header."""
    return before.rstrip().endswith((":", "{")) and not before[before.rfind("\n") + 1 :].strip()


def generated(model: str = "") -> Baseline:
    """A checkpoint (the embedded one by default) asked through transformers' own `generate`: Lacuna's prompt, its own
    sampler, no draft, no gate; the answer ends with its end token, and a line with its newline. A second or two each.

    Raises: LacunaError's kinds where the model or transformers cannot be loaded.
    """
    # only this baseline loads torch and transformers
    from ..engine.find import find_model
    from ..engine.modelfile import EMBEDDED
    from ..engine.reference import Reference
    from .layout import build_prompt
    from .load import load_tokenizer

    source = find_model(model) if model else EMBEDDED
    tokenizer, reference = load_tokenizer(source), Reference(source)

    def propose(context: Context) -> str:
        # a tokenizer that was trained on plain newlines has no use for others; the cursor stands in the text as it is
        before = context.document[: context.cursor].replace("\r\n", "\n")
        after = context.document[context.cursor :].replace("\r\n", "\n")
        is_block = _wants_block(before)
        prompt = build_prompt(tokenizer, before, after)
        tokens = reference.generate(prompt.tokens, reference.canvas_length * (2 if is_block else 1))
        ends = [place for place, token in enumerate(tokens) if token in tokenizer.end_ids]
        text = tokenizer.answer(tokens[: ends[0]] if ends else tokens)
        return (text if is_block else text.split("\n", 1)[0]).rstrip()

    return propose


@dataclass(frozen=True, slots=True)
class _Index:
    """The tokens of a text, and behind which positions each token and each pair of tokens stands."""

    tokens: list[str]
    places: dict[tuple[str, ...], list[int]]


def _index(text: str) -> _Index:
    tokens: list[str] = _TOKEN.findall(text)
    places: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for end in range(1, len(tokens)):
        places[(tokens[end - 1],)].append(end)
        if end > 1:
            places[(tokens[end - 2], tokens[end - 1])].append(end)
    return _Index(tokens, places)


_indexed = lru_cache(maxsize=64)(_index)


def _next(indices: Sequence[_Index], tokens: Sequence[str]) -> str | None:
    """What follows the longest context that occurs: the most frequent; of equals the one that is seen first."""
    for order in (2, 1):
        key = tuple(tokens[-order:])
        best, followers = 0, Counter[str]()
        for index in indices:
            for place in index.places.get(key, ()) if len(key) == order else ():
                length = _match(index.tokens, place, tokens)
                if length > best:
                    best, followers = length, Counter[str]()
                if length == best:
                    followers[index.tokens[place]] += 1
        if followers:
            return followers.most_common(1)[0][0]
    return None


def _match(seen: Sequence[str], place: int, tokens: Sequence[str]) -> int:
    """How many tokens before place are the last of tokens, at most NGRAM_ORDER - 1."""
    most = min(NGRAM_ORDER - 1, place, len(tokens))
    length = 0
    while length < most and seen[place - 1 - length] == tokens[-1 - length]:
        length += 1
    return length


BASELINES: dict[str, Baseline] = {"empty": empty, "copy": copy_similar_line, "n-gram": ngram}

"""Several gaps of one document: one by one and jointly, each judged, none spoiling the others."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from infill_cases import BYTE_POLICY, TOKENIZER, infiller
from lacuna_ls.infill.holes import find_holes
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.request import NO_OTHER, GapSpan, GapsRequest

TEXT = "def f(a):\n    pass\n\n\ndef g(b):\n    # say\n    ...\n\n\nx = ...\n"


def request_for(text: str = TEXT, language: str = "python", **options) -> GapsRequest:
    gaps = tuple(hole.gap for hole in find_holes(language_for(language), text) if hole.is_sure)
    # a value of the module is a hole too
    return GapsRequest(text, gaps, language, **options)


def written(text: str, result) -> str:
    for fill in reversed(result.fills):
        if fill.proposal is not None:
            text = text[: fill.proposal.start] + fill.proposal.text + text[fill.proposal.end :]
    return text


def by_prefix(problem):
    """What stands last before the gap decides."""
    prompt = TOKENIZER.decode(problem.prompt[problem.prompt.index(TOKENIZER.pre) :])
    if prompt.endswith("x = "):
        return ["[1]"]
    return ["return b"] if "def g" in prompt else ["if a:\n        return 1\n    return a"]


FILLED = "def f(a):\n    if a:\n        return 1\n    return a\n\n\ndef g(b):\n    # say\n    return b\n\n\nx = [1]\n"


def test_one_by_one_each_sees_those_above_it_filled():
    subject = infiller(by_prefix)
    result = subject.fill_gaps(request_for())
    assert written(TEXT, result) == FILLED
    assert "return a" in TOKENIZER.decode(subject.engine.problems[1].prompt)
    assert result.timings.steps == 3


def test_crlf_and_shifts():
    text = TEXT.replace("\n", "\r\n")
    assert written(text, infiller(by_prefix).fill_gaps(request_for(text))) == FILLED.replace("\n", "\r\n")


@pytest.mark.parametrize("answer", ["f(", "{", "# say"])
def test_nobody_goes_on_where_an_edit_ends(answer):
    text = "def f():\n    x = ...\n\n\ndef g():\n    pass\n"
    assert written(text, infiller([answer]).fill_gaps(request_for(text))) == text


def test_what_is_refused_stays_as_it_is():
    def answer(problem):
        text = by_prefix(problem)[0]
        return ["return (b"] if "b" in text else [text]

    result = infiller(answer).fill_gaps(request_for())
    assert written(TEXT, result) == FILLED.replace("return b\n", "...\n")
    assert [fill.declined for fill in result.fills] == ["", "syntax", ""]


def test_a_placeholder_is_no_filling():
    result = infiller("pass").fill_gaps(request_for())
    assert [fill.proposal for fill in result.fills] == [None, None, None]
    assert result.fills[1].declined == "unchanged"


def joint(problem):
    """Alone as before; in the joint canvas other text of the same length, beside the pinned rows."""
    canvas = problem.canvases[0]
    if not any(canvas.pinned):
        return by_prefix(problem)
    rows = list(canvas.tokens)
    free = [i for i, pin in enumerate(canvas.pinned) if not pin]
    new = TOKENIZER.encode("if b:\n        return 2\n    return b" + "return c" + "[2]")
    assert len(new) == len(free)
    for i, token in zip(free, new):
        rows[i] = token
    return [TOKENIZER.decode(rows)]


def test_jointly_one_canvas_holds_all_gaps_with_the_text_between_them_pinned():
    subject = infiller(joint)
    result = subject.fill_gaps(request_for(jointly=True))
    asked, judged = subject.engine.problems[-2:]
    canvas = asked.canvases[0]
    pinned = TOKENIZER.decode([token for token, pin in zip(canvas.tokens, canvas.pinned) if pin])
    assert pinned == "\n\n\ndef g(b):\n    # say\n    \n\n\nx = "
    assert (asked.decoding, judged.decoding) == ("denoise", "score")
    expected = FILLED.replace("1", "2").replace("return a", "return b").replace("if a", "if b")
    assert written(TEXT, result) == expected.replace("# say\n    return b", "# say\n    return c")


def test_a_joint_canvas_does_not_end_with_the_line_of_its_first_gap():
    text = "a = \nb = \n"
    subject = infiller(lambda problem: ["[1]"] if not any(problem.canvases[0].pinned) else ["[2]\nb = [3]"])
    gaps = tuple(GapSpan(at, at, is_multiline=False) for at in (4, 9))
    result = subject.fill_gaps(GapsRequest(text, gaps, "python", jointly=True))
    first, *_, asked, _ = subject.engine.problems
    assert first.stop == tuple(TOKENIZER.newline_ids)
    assert asked.decoding == "denoise"
    assert not {*asked.stop} & TOKENIZER.newline_ids
    assert written(text, result) == "a = [2]\nb = [3]\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_encoder_decides_between_the_two(newline: str):
    """It reads both documents from the first gap to the end of the last, and no further."""
    text = TEXT.replace("\n", newline)
    read = []

    def scored(middle: str) -> float:
        read.append(middle)
        return -1.0 if "[2]" in middle else -0.5

    subject = infiller(joint)
    subject.engine.scored = scored
    alone = subject.fill_gaps(request_for(text))
    result = subject.fill_gaps(request_for(text, jointly=True))
    assert written(text, result) == written(text, alone) == FILLED.replace("\n", newline)
    assert read[0] == FILLED[len("def f(a):\n    ") :].removesuffix("\n") + TOKENIZER.decode([TOKENIZER.eos])
    assert [each.count("\n") for each in read] == [10, 10]
    # an engine that only denoises has no encoder to ask, and a server's cannot be asked
    for change in ({"decoding": "denoise"}, {"use_scores": False}):
        subject.policy = replace(BYTE_POLICY, **change)
        subject.fill_gaps(request_for(text, jointly=True))
    assert len(read) == 2


def test_a_joint_result_that_fails_its_gate_keeps_what_was_good_alone():
    def answer(problem):
        (text,) = joint(problem)
        return [text.replace("return c", "return (")] if any(problem.canvases[0].pinned) else [text]

    result = infiller(answer).fill_gaps(request_for(jointly=True))
    assert "return b\n\n\nx = [2]" in written(TEXT, result)


def test_too_long_for_one_canvas_falls_back_to_one_by_one():
    text = TEXT.replace("# say", "# " + "s" * 400)
    subject = infiller(by_prefix)
    result = subject.fill_gaps(request_for(text, jointly=True))
    assert all(not any(problem.canvases[0].pinned) for problem in subject.engine.problems)
    assert all(fill.proposal for fill in result.fills)


def test_cancelling_gives_what_was_done_and_deadlines_are_kept():
    calls = []

    def cancelled() -> bool:
        calls.append(1)
        return len(calls) > 2

    result = infiller(by_prefix).fill_gaps(request_for(), cancelled)
    assert result.is_cancelled
    assert len(result.fills) == 1

    def slow(problem):
        time.sleep(0.05)
        return by_prefix(problem)

    late = infiller(slow).fill_gaps(request_for(deadline_ms=40.0))
    assert late.fills[0].proposal is not None
    assert [fill.declined for fill in late.fills[1:]] == ["deadline", "deadline"]


def test_gaps_that_overlap_are_our_own_mistake():
    with pytest.raises(ValueError, match="overlaps"):
        GapsRequest("abcdef", (GapSpan(0, 3), GapSpan(2, 4)), "python")


def test_a_rewrite_has_room_for_what_it_takes_the_place_of():
    old = "\n    ".join(f"call_{i}(a)" for i in range(12))
    text = f"def f(a):\n    {old}\n"
    span = GapSpan(text.index("call_0"), len(text) - 1)
    subject = infiller(["return a"])
    for is_rewrite in (False, True):
        subject.fill_gaps(GapsRequest(text, (span,), "python", is_rewrite=is_rewrite))
    shorter, longer = (len(problem.canvases[0].tokens) for problem in subject.engine.problems)
    assert shorter == BYTE_POLICY.num_rows_block
    assert len(old) < longer <= 2 * shorter


def test_the_next_attempt_of_the_encoder_is_its_next_answer():
    text = "x = [a b]\n"
    request = GapsRequest(text, (GapSpan(5, 8, is_multiline=False),), "python", is_rewrite=True)
    subject = infiller(lambda problem: ["a, b", "a + b", "a and b"][: len(problem.canvases)])
    attempts = [subject.fill_gaps(replace(request, seed=seed)) for seed in range(4)]
    assert [written(text, attempt) for attempt in attempts[:3]] == ["x = [a, b]\n", "x = [a + b]\n", "x = [a and b]\n"]
    assert attempts[3].fills[0].proposal is None
    assert attempts[3].fills[0].declined == NO_OTHER


def test_the_next_attempt_of_diffusion_begins_with_other_noise():
    text = "x = [a b]\n"
    request = GapsRequest(text, (GapSpan(5, 8, is_multiline=False),), "python", is_rewrite=True)
    subject = infiller(lambda problem: [["a, b", "a + b"][problem.seed]])
    subject.policy = replace(BYTE_POLICY, decoding="denoise")
    attempts = [written(text, subject.fill_gaps(replace(request, seed=seed))) for seed in range(2)]
    assert attempts == ["x = [a, b]\n", "x = [a + b]\n"]
    assert all(len(problem.canvases) == 1 for problem in subject.engine.problems)

"""The life of one infill over a canned engine: values for everything expected, and little work per keystroke."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace

import pytest
from infill_cases import BYTE_POLICY, TOKENIZER, applied, asked, infiller
from lacuna_ls.engine.life import ManagedEngine
from lacuna_ls.engine.problem import CanvasResult
from lacuna_ls.infill.index import LineIndex
from lacuna_ls.infill.infiller import LocalInfiller
from lacuna_ls.infill.layout import Limits
from lacuna_ls.infill.pose import NUM_SPARE, prompt_for
from lacuna_ls.infill.privacy import PathRules
from lacuna_ls.infill.request import Infiller, Neighbour
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.span import Gap

B = "‸"


def test_it_is_an_infiller():
    subject: Infiller = infiller("x")
    assert subject.status().state == "ready"
    subject.close()
    assert subject.status().state == "closed"


def test_prefetch_reads_the_prompt_that_fill_then_needs():
    subject = infiller("f(1)")
    request = asked(f"import os\n\nx = {B}\ny = 2\n")
    subject.prefetch(request)
    result = subject.fill(request)
    assert result.timings.num_prefilled == 0
    assert result.timings.num_cached == len(subject.engine.problems[0].prompt)


def test_typing_only_appends_to_the_prompt_and_nothing_within_a_word():
    subject = infiller("f(1)")
    head = "".join(f"def f{i}(a):\n    return a + {i}\n\n\n" for i in range(40))
    request = asked(f"{head}x = {B}\ny = 2\n")
    subject.prefetch(request)
    num_prefilled = []
    for i in range(1, 9):
        typed = "call(abc)"[:i]
        text = request.text[: request.start] + typed + request.text[request.start :]
        now = replace(request, text=text, start=request.start + i, end=request.end + i)
        before = subject.engine.cached
        subject.prefetch(now)
        after = subject.engine.cached
        shared = next((k for k, (a, b) in enumerate(zip(before, after)) if a != b), len(after))
        num_prefilled.append(len(after) - shared)
    # one byte token each: the marker behind the prompt; with the bracket " call(" and the marker again
    assert num_prefilled == [1, 0, 0, 0, 7, 0, 0, 0]


def test_imports_are_in_the_prompt_wherever_the_cursor_is():
    """At the top of the text that is shown, or of the document where that begins further below."""
    lines = "".join(f"value_{i} = {i}\n" for i in range(200))
    prompts = []
    for top, head in (("import os\n", ""), ("", "import os\nx = 1\n"), ("", "")):
        subject = infiller("f(1)")
        subject.prefetch(asked(f"{top}{lines}x = {B}\ny = 2\n", head=head))
        prompts.append(TOKENIZER.decode(subject.engine.prefills[0]))
    assert ["import os" in prompt for prompt in prompts] == [True, True, False]
    assert "x = 1" not in prompts[1]


def test_imports_leave_room_for_what_was_chosen_for_the_gap():
    head = "import os\nimport sys\nimport re\n"
    text = "x = 1\n" * 600
    policy = replace(BYTE_POLICY, limits=Limits(num_prefix=100, num_suffix=20, num_neighbour=31))
    gap = Gap(len(text), len(text), "line")

    def elsewhere(neighbours: str) -> str:
        prompt = prompt_for(TOKENIZER, Snapshot(text), gap, policy, neighbours, head)
        return TOKENIZER.decode(prompt.tokens[1 : prompt.tokens.index(TOKENIZER.suf)])

    assert elsewhere("") == head
    assert elsewhere("y = 1\n") == "import os\nimport sys\ny = 1\n"
    assert elsewhere("y = 1\nedited = 2\n") == "import os\ny = 1\nedited = 2\n"
    assert elsewhere("y = 1\n" * 5) == "y = 1\n" * 5


def test_what_was_edited_lately_is_in_the_prompt():
    subject = infiller("1")
    subject.policy = replace(BYTE_POLICY, use_neighbours=True)
    subject.fill(asked(f"x = {B}\n", path="a.py", edited=(Neighbour("b.py", "limit = 12\n"),)))
    prompt = subject.engine.problems[0].prompt
    assert TOKENIZER.decode(prompt[1 : prompt.index(TOKENIZER.suf)]) == "limit = 12\n"


def test_a_declined_request_costs_no_engine_work():
    subject = infiller("f(1)", is_excluded=lambda path: path.endswith(".env"))
    request = asked(f"A={B}\n", "text", path="/p/.env")
    subject.prefetch(request)
    assert subject.fill(request).declined == "excluded"
    assert subject.engine.prefills == []
    assert subject.refusals["excluded"] == 1


@pytest.mark.parametrize(
    ("text", "answer", "language"),
    [
        pytest.param(f"x = {B}" + " " * 100_000, "f(1)", "python", id="blanks beyond the window"),
        pytest.param("var a=1;" * 5_000 + f"x = {B};y(" + "var a=1;" * 5_000, "f(", "javascript", id="one long line"),
    ],
)
def test_a_line_that_goes_on_beyond_the_window_is_no_trouble(text, answer, language):
    result = infiller(answer).fill(asked(text, language, is_explicit=True))
    assert [proposal.text for proposal in result.proposals] == (["f(1)"] if language == "python" else [])


def test_cancelled_is_a_value():
    subject = infiller("f(1)")
    result = subject.fill(asked(f"x = {B}\n"), cancelled=lambda: True)
    assert result.is_cancelled
    assert result.proposals == ()
    assert len(subject.recent) == 0


def test_the_deadline_is_passed_on_less_what_is_spent():
    subject = infiller("f(1)")
    subject.fill(asked(f"x = {B}\n", deadline_ms=80.0))
    given = subject.engine.problems[0].deadline_ms
    assert given is not None
    assert 1.0 <= given < 80.0


@pytest.mark.parametrize(
    ("decoding", "is_finished", "steps", "end", "declined"),
    [
        pytest.param("denoise", False, 3, 5, "deadline", id="a canvas that is still noise"),
        pytest.param("denoise", False, 16, 5, "", id="the step limit is not the deadline"),
        pytest.param("verify", False, 3, 5, "unfinished", id="a causal answer that stopped half way"),
        pytest.param("verify", True, 3, 5, "", id="a whole answer"),
    ],
)
def test_what_the_deadline_leaves_is_shown_only_where_it_is_whole(decoding, is_finished, steps, end, declined):
    subject = infiller("f(1)", logprob=-0.1)
    subject.policy = replace(BYTE_POLICY, decoding=decoding)
    tokens = (*TOKENIZER.encode("value"), *[TOKENIZER.eos] * (BYTE_POLICY.num_rows_line - 5))

    def fill(problem, cancelled=None):
        rows = len(tokens)
        return [CanvasResult(tokens, (0.0,) * rows, (-0.1,) * rows, end, steps, is_finished)]

    subject.engine.fill = fill
    assert subject.fill(asked(f"x = {B}\n")).declined == declined


def test_the_floor_declines_and_counts():
    subject = infiller("f(1)", logprob=-1.0)
    result = subject.fill(asked(f"x = {B}\n", min_confidence=0.5))
    assert result.declined == "low-confidence"
    assert subject.refusals["low-confidence"] == 1
    assert subject.fill(asked(f"x = {B}\n")).proposals, "without a floor it is shown"


def test_a_hopeless_answer_is_given_up_and_counts_as_unsure():
    subject = infiller("f(1)", logprob=-1.0)
    given_up = subject.engine.fill

    def fill(problem, cancelled=None):
        return [replace(result, is_given_up=True, is_finished=False) for result in given_up(problem, cancelled)]

    subject.engine.fill = fill
    result = subject.fill(asked(f"x = {B}\n", min_confidence=0.5))
    assert subject.engine.problems[-1].floor == pytest.approx(math.log(0.5))
    assert result.declined == "low-confidence"
    assert subject.refusals["low-confidence"] == 1
    # nobody has to be sure of what was asked for by a key
    subject.fill(asked(f"x = {B}\n"))
    assert subject.engine.problems[-1].floor is None


def test_alternatives_are_ranked_and_each_text_comes_once():
    def answer(problem):
        if problem.decoding != "denoise":
            return ["f(1)"]
        return ["f(1)", "g(2)", "h(3)", "h(3)"]

    subject = infiller(answer, logprob=[-0.1, -0.01, -0.5, -0.5])
    subject.policy = replace(BYTE_POLICY, decoding="verify")
    subject.engine.scored = lambda text: {"f(1)": -0.1, "g(2)": -0.01, "h(3)": -0.5}[text.strip()]
    result = subject.fill(asked(f"x = {B}\n", num_alternatives=4))
    assert [p.text for p in result.proposals] == ["g(2)", "f(1)", "h(3)"]
    confidences = [p.confidence for p in result.proposals]
    assert confidences == sorted(confidences, reverse=True)
    pinned = [sum(canvas.pinned) for canvas in subject.engine.problems[1].canvases]
    assert pinned[0] == 0
    assert all(pinned[1:]), "the other canvases have their end pinned"


def test_a_search_finds_the_alternatives_of_a_line_at_once():
    subject = infiller(lambda problem: ["f(1)", "f(1", "g(2)", "f(1)"], logprob=[-0.1, -0.2, -0.3, -0.4])
    result = subject.fill(asked(f"x = {B}\n", num_alternatives=4))
    assert [p.text for p in result.proposals] == ["f(1)", "g(2)"]
    (problem,) = subject.engine.problems
    assert (problem.decoding, problem.num_certain) == ("beam", 4)


def test_the_next_likely_answer_stands_in_for_one_that_fails_the_gates():
    subject = infiller(lambda problem: ["f(1", "g(2)", "h(3)"], logprob=[-0.1, -0.2, -0.3])
    result = subject.fill(asked(f"x = {B}\ny = 1\n"))
    assert [p.text for p in result.proposals] == ["g(2)"]
    assert subject.refusals == {"syntax": 1}, "what is not needed is not looked at"


def test_a_gap_across_lines_is_not_searched():
    subject = infiller("a = 1\n    b = 2")
    subject.fill(asked(f"def f():\n    {B}\n", kind="block"))
    assert {problem.decoding for problem in subject.engine.problems} == {"verify"}


def test_an_end_that_was_given_to_diffusion_is_no_advantage():
    """The rows of a pinned end cost nothing; the encoder says what each answer and its end are worth."""

    def answer(problem):
        return ["call(first)"] if problem.decoding != "denoise" else ["call(second)", "call"]

    def shown(use_scores: bool):
        subject = infiller(answer, logprob=[-0.05, -0.06, -0.06])
        subject.policy = replace(BYTE_POLICY, decoding="verify", use_scores=use_scores)
        subject.engine.scored = lambda text: {"call(first)": -0.1, "call(second)": -0.1}.get(text.strip(), -2.0)
        return subject, subject.fill(asked(f"x = {B}\ny = 2\n", num_alternatives=3)).proposals

    subject, ranked = shown(use_scores=True)
    assert [each.text for each in ranked] == ["call(first)", "call(second)", "call"]
    causal, _, scored = subject.engine.problems
    assert (scored.decoding, scored.prompt) == ("score", causal.prompt)
    assert all(canvas.tokens[-1] == TOKENIZER.eos and not any(canvas.pinned) for canvas in scored.canvases)
    alone = infiller("call(first)", logprob=-0.05).fill(asked(f"x = {B}\ny = 2\n")).proposals[0]
    assert ranked[0].confidence == alone.confidence, "alternatives change nothing of the answer itself"
    subject, ranked = shown(use_scores=False)
    assert ranked[0].text == "call"
    assert "score" not in [problem.decoding for problem in subject.engine.problems], "a server cannot"


def test_one_answer_is_never_scored():
    for decoding in ("verify", "beam", "denoise"):
        subject = infiller("f(1)")
        subject.policy = replace(BYTE_POLICY, decoding=decoding, use_healing=False)
        subject.fill(asked(f"x = {B}\n"))
        assert [problem.decoding for problem in subject.engine.problems] == [decoding]


def test_what_is_pinned_behind_a_length_is_no_part_of_the_answer():
    subject = infiller("abcdefgh")
    subject.policy = replace(BYTE_POLICY, decoding="denoise", use_healing=False)
    result = subject.fill(asked(f"x = {B}\ny = 2\n", num_alternatives=5))
    assert {each.text for each in result.proposals} == {"abcd", "abcdefgh"}
    (problem,) = subject.engine.problems
    assert len(problem.canvases) == 1 + len(BYTE_POLICY.candidate_lengths)
    assert list(problem.canvases[1].tokens[4:8]) == [TOKENIZER.eos] * 4


def test_one_refused_alternative_does_not_take_the_others_with_it():
    subject = infiller(lambda problem: ["f(1"] if problem.decoding != "denoise" else ["g(2)"])
    subject.policy = replace(BYTE_POLICY, decoding="verify")
    result = subject.fill(asked(f"x = {B}\ny = 1\n", num_alternatives=2))
    assert [p.text for p in result.proposals] == ["g(2)"]
    assert subject.refusals["syntax"] == 1


def test_the_popups_word_begins_the_proposal():
    result = infiller(".name").fill(asked(f"x = {B}se{B}\n", typed="self"))
    assert applied("x = se\n", result.proposals[0]) == "x = self.name\n"


def test_signatures_of_names_in_use_stand_first_in_the_prompt():
    subject = infiller("1")
    subject.policy = replace(BYTE_POLICY, use_neighbours=True)
    subject.fill(asked(f"x = helper({B})\n", neighbours=(Neighbour("b.py", "def helper(a):\n    return a\n"),)))
    prompt = subject.engine.problems[0].prompt
    assert prompt[0] == TOKENIZER.ctx
    assert TOKENIZER.decode(prompt[: prompt.index(TOKENIZER.suf)]).startswith("def helper(a):")


def with_drafts(answer, logprob=-3.0, **policy) -> LocalInfiller:
    subject = infiller(answer, logprob=logprob)
    subject.policy = replace(BYTE_POLICY, use_drafts=True, **policy)
    return subject


TWIN = f"for a in b:\n    total += weight[a]\nprint(a)\n\nfor a in b:\n    {B}\nprint(a)\n"


def test_a_likely_draft_answers_without_the_model():
    subject = with_drafts("other(a)", instant_confidence=0.3)
    (proposal,) = subject.fill(asked(TWIN, kind="line")).proposals
    assert (proposal.text, proposal.source) == ("total += weight[a]", "similar")
    assert subject.engine.problems == []


def test_asked_by_a_key_the_model_has_its_say_and_the_likelier_comes_first():
    subject = with_drafts("other(a)", instant_confidence=0.3)
    # what a candidate length cuts in the middle of a word is no likely text
    subject.engine.scored = lambda text: -0.01 if text.strip() == "other(a)" else -9.0
    result = subject.fill(asked(TWIN, kind="line", is_explicit=True, num_alternatives=2))
    assert [(p.text, p.source) for p in result.proposals] == [
        ("total += weight[a]", "similar"),
        ("other(a)", "model"),
    ]
    sure = with_drafts("other(a)", logprob=-0.001)
    result = sure.fill(asked(TWIN, kind="line", is_explicit=True))
    assert result.proposals[0].source == "model"


def test_where_model_and_workspace_agree_both_are_believed_more():
    alone = with_drafts("other(a)", instant_confidence=2.0).fill(asked(TWIN, kind="line")).proposals[0]
    both = (
        with_drafts("total += weight[a]", logprob=-0.05, instant_confidence=2.0)
        .fill(asked(TWIN, kind="line"))
        .proposals[0]
    )
    assert both.text == alone.text
    assert both.confidence > alone.confidence
    assert both.source == "model"


def test_behind_a_bracket_that_the_editor_has_closed_one_more_answer_is_looked_for():
    # the likeliest may be that bracket, which stands there
    for text, closed in ((f"x = f({B})\n", 1), (f"x = f({B}\n", 0)):
        subject = infiller([")", "a)"])
        result = subject.fill(asked(text))
        problem = subject.engine.problems[0]
        assert (problem.num_certain, len(problem.canvases)) == (1 + closed, 1 + closed + NUM_SPARE)
        assert result.proposals[0].text == ("a" if closed else ")")


def test_what_is_put_behind_the_bracket_takes_its_place_and_nothing_else_does():
    result = infiller(["a) == 0"]).fill(asked(f"x = f({B}) \n"))
    (proposal,) = result.proposals
    assert (proposal.text, proposal.start, proposal.end) == ("a) == 0", 6, 8)
    (proposal,) = infiller(["a)"]).fill(asked(f"x = f({B}) \n")).proposals
    assert (proposal.text, proposal.start, proposal.end) == ("a", 6, 6)
    (proposal,) = infiller(["a, b) {"]).fill(asked(f"function f({B})\n", "javascript")).proposals
    assert (proposal.text, proposal.end, proposal.closing) == ("a, b) {", 12, "}")


def test_a_draft_passes_the_same_gates():
    text = f"a = [\n    1,\n]\nb(a)\n\na = {B}\n1\nb(a)\n"
    subject = with_drafts("2")
    assert [p.text for p in subject.fill(asked(text, num_alternatives=3)).proposals] == ["2"]
    assert subject.refusals["draft-syntax"] == 1


def test_a_block_is_drafted_in_the_documents_own_style_and_a_rewrite_is_not():
    twin = "def load(a):\n  if a:\n    b = a\n  return a\n\n\n"
    here = f"class A:\n\tdef load(a):\n\t\t{B}\n\n\tdef save(a):\n\t\tpass\n"
    subject = with_drafts("")
    subject.index.update("b.py", twin)
    result = subject.fill(asked(here))
    assert result.proposals[0].text == "if a:\n\t\t\tb = a\n\t\treturn a"
    assert result.proposals[0].source == "similar"
    # one that would not be shown is not judged either
    subject.recent.forget()
    assert subject.fill(asked(here, min_confidence=0.9)).declined == "empty"
    request = asked(here, is_rewrite=True)
    scene = subject.read(request)
    gap = Gap(request.start, request.end, "block", "\t\t")
    assert subject.fill_gap(request, scene, gap).declined == "empty"


def test_open_documents_are_drafted_from():
    subject = with_drafts("other()", instant_confidence=0.3)
    other = Neighbour("b.py", "import json\n\nwith open(path) as file:\n    data = json.load(file)\nprint(data)\n")
    request = asked(f"import json\n\nwith open(path) as file:\n    {B}\nprint(data)\n", path="a.py", kind="line")
    result = subject.fill(replace(request, neighbours=(other,)))
    assert result.proposals[0].text == "data = json.load(file)"
    hidden = with_drafts("other()", instant_confidence=0.3)
    hidden.is_excluded = lambda path: path == "b.py"
    assert hidden.fill(replace(request, neighbours=(other,))).proposals[0].text == "other()"
    assert (len(subject.index), len(hidden.index)) == (1, 0)


def test_only_documents_of_a_bearable_length_are_learnt_and_nobody_waits_for_one():
    subject = with_drafts("other()")
    small, large = (Neighbour(f"{n}.py", f"value_{n} = 1\n" * n) for n in (4_000, 20_000))
    request = replace(asked(f"x = {B}\n"), neighbours=(large, small))
    calls = []

    def cancelled() -> bool:
        calls.append(1)
        return len(calls) > 4

    subject.prefetch(request, cancelled)
    assert (len(subject.index), len(calls)) == (0, 5), "given up in the middle of the document"
    subject.prefetch(request)
    assert set(subject._learned) == {"4000.py"}
    assert len(subject.index) == 1


def test_what_is_remembered_of_documents_is_bounded():
    subject = with_drafts("other()")
    for i in range(200):
        now = tuple(Neighbour(f"{k}.py", f"value_{k} = 1\n") for k in range(i, i + 3))
        subject.prefetch(replace(asked(f"x = {B}\n"), neighbours=now))
    assert len(subject._learned) < 80
    # however many are open at once, each is learnt once
    many = tuple(Neighbour(f"{k}.py", f"value_{k} = 1\n") for k in range(150))
    learnt = []
    update = subject.index.update
    subject.index.update = lambda path, text, **more: learnt.append(path) or update(path, text, **more)
    for _ in range(3):
        subject.prefetch(replace(asked(f"x = {B}\n"), neighbours=many))
    assert len(learnt) == len(set(learnt)) <= 150


def test_open_documents_stay_in_a_full_index_and_their_folders_are_read_first(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for i in range(40):
        (tmp_path / f"{i}.py").write_text("x = 1\n" * 40)
    (tmp_path / "deep" / "er" / "other.py").write_text("y = 2\n")
    subject = with_drafts("two")
    subject.index = LineIndex(max_text_bytes=20_000)
    here = str(tmp_path / "deep" / "er" / "here.py")
    neighbours = tuple(Neighbour(str(tmp_path / f"open_{i}.py"), f"a_{i} = {i}\n") for i in range(5))
    subject.index_workspace([str(tmp_path)], lambda path: False, lambda: True)
    for i in range(len(neighbours)):
        # one is learnt with each, and what is remembered is not asked
        subject.fill(asked(f"z = {i}\ny = {B}\n", path=here, neighbours=neighbours))
    indexer = subject._indexer
    while indexer.step(5.0):
        pass
    assert all(neighbour.path in subject.index for neighbour in neighbours)
    assert str(tmp_path / "deep" / "er" / "other.py") in subject.index
    assert 0 < indexer.num_read < 40
    subject.refresh_files([str(tmp_path / f"{i}.py") for i in range(40)])
    while indexer.step(5.0):
        pass
    assert all(neighbour.path in subject.index for neighbour in neighbours)
    subject.close()


def test_crlf_reaches_the_model_as_plain_newlines_and_comes_back_as_crlf():
    subject = infiller("a = 1\n    return a")
    request = asked(f"def f():\r\n    {B}\r\n\r\nx = 1\r\n")
    result = subject.fill(request)
    assert "\r" not in TOKENIZER.decode(subject.engine.problems[0].prompt)
    assert "\n" not in applied(request.text, result.proposals[0]).replace("\r\n", "")


def test_special_tokens_are_forbidden_and_a_line_stops_at_its_newline():
    subject = infiller("f(1)")
    subject.fill(asked(f"x = {B}\n"))
    subject.fill(asked(f"def f():\n    {B}\n"))
    line, block = subject.engine.problems
    assert set(line.banned) == set(range(16)) - {TOKENIZER.eos}
    assert set(line.stop) == TOKENIZER.newline_ids
    assert block.stop == ()


def test_loading_and_unloading_are_the_engines_business():
    # an engine without a model of its own has nothing to give back
    subject = infiller("x")
    subject.unload()
    subject.load()
    assert subject.status().state == "ready"
    inner = subject.engine
    subject = LocalInfiller(ManagedEngine(lambda kv_tokens: inner, 1024, has_timer=False), TOKENIZER)
    assert subject.status().state == "unloaded"
    subject.load()
    assert subject.status().state == "ready"
    subject.unload()
    assert subject.status().state == "unloaded"


def test_the_workspace_is_read_in_the_background_and_closing_ends_it(tmp_path):
    (tmp_path / "b.py").write_text("import json\n\nwith open(path) as file:\n    data = json.load(file)\nprint(data)\n")
    (tmp_path / "secrets.py").write_text("with open(path) as file:\n    leak(file)\nprint(data)\n")
    subject = with_drafts("other()", instant_confidence=0.3)
    subject.is_excluded = PathRules([tmp_path]).is_excluded
    subject.index_workspace([str(tmp_path)])
    until = time.monotonic() + 10
    while len(subject.index) < 1 and time.monotonic() < until:
        time.sleep(0.01)
    request = asked(f"with open(path) as file:\n    {B}\nprint(data)\n", path="a.py", kind="line")
    assert subject.fill(request).proposals[0].text == "data = json.load(file)"
    subject.close()
    assert len(subject.index) == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "lacuna-index" and thread.is_alive()]


def _best_ms(subject: LocalInfiller, request, num: int = 7) -> float:
    best = float("inf")
    for i in range(num):
        now = replace(request, seed=i)
        subject.recent.forget()
        started = time.process_time()
        assert subject.fill(now).proposals
        best = min(best, (time.process_time() - started) * 1e3)
    return best


def test_a_keystroke_costs_the_same_in_a_long_file_and_a_short_one():
    piece = "def f{0}(a):\n    b = a + {0}\n    return b\n\n\n"
    short = "".join(piece.format(i) for i in range(40))
    long = "".join(piece.format(i) for i in range(40_000))
    subject = infiller("g(a)")
    costs = []
    for name, body in (("short", short), ("long", long)):
        middle = body.index("\n\n\n", len(body) // 2) + 3
        request = asked(body[:middle] + f"x = {B}\n\n\n" + body[middle:], path=name)
        costs.append(_best_ms(subject, request))
    # flat but for slices of the text; the room is for a busy machine
    assert costs[1] < 3 * costs[0] + 10


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"x = [{'1, ' * 350_000}{B}]\n", id="a line of one megabyte"),
        pytest.param(f"{B}", id="an empty document"),
        pytest.param(f"\ufeffx = {B}\r", id="a byte order mark and a lone carriage return"),
        pytest.param(f"x = '\ud800{B}'\n", id="a lone surrogate"),
        pytest.param("\n" * 200_000 + B, id="nothing but newlines"),
        pytest.param(f"{'(' * 5000}\n{B}", id="five thousand open brackets"),
    ],
)
def test_strange_documents_are_survived(text):
    for language in ("python", "rust", "text"):
        result = infiller("1").fill(asked(text, language))
        assert result.proposals or result.declined

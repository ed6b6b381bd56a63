"""What is not asked of the model twice: typed-through reuse, prefetch while typing, and looking ahead."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from lacuna_ls.lsp.completion import ADAPTIVE_LIMIT_S
from lacuna_ls.lsp.options import Options
from lacuna_ls.lsp.server import create_server

URI = "file:///workspace/a.py"


def fills(journal):
    return [each for each in journal() if each["what"] == "fill"]


def insert(line, character, text):
    at = {"line": line, "character": character}
    return {"range": {"start": at, "end": at}, "text": text}


def test_typing_along_is_answered_from_memory_unchanged(start, journal):
    server = start(options={"trigger": {"speculate": False}})
    server.open(URI, "x = \n")
    assert server.inline(URI, 0, 4)[0]["insertText"] == "filled"
    # letter by letter, then two at once as a word accept does
    for version, (typed, character) in enumerate([("f", 5), ("i", 6), ("ll", 8)], 2):
        server.change(URI, version, insert(0, character - len(typed), typed))
        (item,) = server.inline(URI, 0, character)
        assert item["insertText"] == "filled"[character - 4 :]
        assert item["range"]["start"] == item["range"]["end"] == {"line": 0, "character": character}
    assert len(fills(journal)) == 1


def test_another_way_is_filled_anew(start, journal):
    server = start(options={"trigger": {"speculate": False}})
    server.open(URI, "x = \n")
    server.inline(URI, 0, 4)
    server.change(URI, 2, insert(0, 4, "g"))
    assert server.inline(URI, 0, 5)[0]["insertText"] == "filled"
    # the text after the cursor counts too
    server.change(URI, 3, insert(0, 5, ")"))
    server.inline(URI, 0, 5)
    assert len(fills(journal)) == 3


def test_changes_are_prefetched(start, journal):
    server = start()
    server.open(URI, "x = \n")
    server.change(URI, 2, insert(0, 4, "a"))
    found = server.wait_for(lambda: [each for each in journal() if each["what"] == "prefetch"], what="a prefetch")
    assert found[0]["start"] == 5


def fills_of(journal, line):
    return [each for each in fills(journal) if each["line"] == line]


def filled_ahead(server, journal, typed, **more):
    """Ask once, type, and wait until the fill that nobody has asked for yet begins: its row in the journal."""
    server.open(URI, "x = \n")
    server.inline(URI, 0, 4, **more)
    server.change(URI, 2, insert(0, 4, typed))
    (early,) = server.wait_for(lambda: fills_of(journal, f"x = {typed}"), what="the fill ahead")
    return early


def test_a_key_is_filled_before_the_question_comes(start, journal):
    server = start()
    style = {"formattingOptions": {"tabSize": 2, "insertSpaces": False}}
    early = filled_ahead(server, journal, "g", **style)
    # as the question will be
    assert early["indent"] == [2, False]
    assert early["explicit"] is False
    time.sleep(0.05)
    assert server.inline(URI, 0, 5, **style)[0]["insertText"] == "filled"
    assert len(fills_of(journal, "x = g")) == 1


def test_a_fill_that_has_begun_is_waited_for(start, journal):
    server = start()
    filled_ahead(server, journal, "SLEEP400 ")
    assert server.inline(URI, 0, 13)[0]["insertText"] == "filled"
    assert len(fills_of(journal, "x = SLEEP400 ")) == 1


def test_another_question_than_was_foreseen_is_filled_itself(start, journal):
    server = start()
    filled_ahead(server, journal, "g")
    assert server.inline(URI, 0, 5, formattingOptions={"tabSize": 8, "insertSpaces": True})[0]["insertText"] == "filled"
    assert [each["indent"] for each in fills_of(journal, "x = g")] == [[None, None], [8, True]]


def test_what_overtakes_a_fill_ahead_ends_it(start, journal):
    server = start()
    filled_ahead(server, journal, "SLEEP20000 ")
    waiting = server.start_inline(URI, 0, 15)
    taken = {"start": {"line": 0, "character": 4}, "end": {"line": 0, "character": 15}}
    server.change(URI, 3, {"range": taken, "text": "h"})
    assert server.wait(waiting, 5) is None
    assert server.inline(URI, 0, 5)[0]["insertText"] == "filled"


def test_a_fill_ahead_that_gives_way_is_done_when_it_is_asked_for(start, journal):
    server = start()
    other = URI.replace("a.py", "b.py")
    server.open(other, "y = \n")
    filled_ahead(server, journal, "SLEEP300 ")
    waiting = server.start_inline(URI, 0, 13)
    # whoever asks comes before what nobody may want
    assert server.inline(other, 0, 4, kind=1)[0]["insertText"] == "filled"
    assert server.wait(waiting, 5)[0]["insertText"] == "filled"


@pytest.mark.parametrize(
    ("trigger", "kind"),
    [({}, None), ({}, 1), ({"speculate": False}, 2), ({"debounceMs": 10}, 2), ({"prefetch": False}, 2)],
    ids=["never asked", "asked by a key", "switched off", "debounced", "no prefetch"],
)
def test_where_nothing_is_filled_before_the_question(start, journal, trigger, kind):
    server = start(options={"trigger": trigger})
    server.open(URI, "x = \n")
    if kind is not None:
        server.inline(URI, 0, 4, kind=kind)
    server.change(URI, 2, insert(0, 4, "g"))
    server.open(URI.replace("a.py", "b.py"), "y = \n")
    # the engine's thread has come by
    server.inline(URI.replace("a.py", "b.py"), 0, 4, kind=1)
    time.sleep(0.1)
    assert not fills_of(journal, "x = g")


def test_prefetch_can_be_switched_off(start, journal):
    server = start(options={"trigger": {"prefetch": False, "speculate": False}})
    server.open(URI, "x = \n")
    server.change(URI, 2, insert(0, 4, "a"))
    server.inline(URI, 0, 5)
    assert not [each for each in journal() if each["what"] == "prefetch"]


def test_what_follows_an_accepted_proposal_is_there_already(start, journal):
    server = start()
    server.open(URI, "x = \n")
    server.inline(URI, 0, 4)
    server.wait_for(lambda: len(fills(journal)) == 2, what="the fill ahead")
    assert fills(journal)[1]["before"] == "x = filled"
    time.sleep(0.05)
    server.change(URI, 2, insert(0, 4, "filled"))
    assert server.inline(URI, 0, 10)[0]["insertText"] == "filled"
    assert len([each for each in fills(journal) if each["before"] == "x = filled"]) == 1


def test_a_change_within_the_pause_looks_ahead_for_nothing(start, journal):
    server = start(options={"trigger": {"prefetch": False}})
    server.open(URI, "x = \n")
    server.inline(URI, 0, 4)
    server.change(URI, 2, {"text": "something else\n"})
    time.sleep(0.2)
    assert len(fills(journal)) == 1


OTHER = "file:///workspace/b.py"


def test_going_on_in_another_document_looks_ahead_for_nothing(start, journal):
    server = start(options={"trigger": {"prefetch": False}})
    server.open(URI, "x = \n")
    server.open(OTHER, "y = \n")
    server.inline(URI, 0, 4)
    server.change(OTHER, 2, insert(0, 4, "1"))
    time.sleep(0.2)
    assert [each["before"] for each in fills(journal)] == ["x = "]


def test_looking_ahead_ends_when_the_user_goes_on_anywhere(start, journal):
    """Whoever waits must not wait for what would have followed a proposal that nobody took."""
    server = start(options={"trigger": {"prefetch": False}})
    server.open(URI, "AHEAD60000 = \n")
    server.open(OTHER, "y = \n")
    server.inline(URI, 0, 13)
    server.wait_for(lambda: len(fills(journal)) == 2, what="the fill ahead")
    server.change(OTHER, 2, insert(0, 4, "1"))
    server.wait_for(lambda: [each for each in journal() if each["what"] == "cancelled"], what="its end")


@pytest.mark.parametrize(
    ("fill_s", "typing_s", "wait_s"),
    [
        # quick enough to be asked at every key, however fast they come
        (0.2, 0.0, 0.0),
        # the next key comes before the answer would
        (0.6, 0.2, 0.4),
        # and the user types too slowly for that to matter
        (0.6, 0.7, 0.0),
        # nobody waits for longer than this
        (5.0, 0.1, ADAPTIVE_LIMIT_S),
    ],
)
def test_only_a_slow_engine_waits_for_the_end_of_a_word(fill_s, typing_s, wait_s):
    completions = create_server(lambda options, roots, progress: NotImplemented).completions
    completions._fill_s, completions._typing_s = fill_s, typing_s
    assert completions._debounce_s(Options()) == pytest.approx(wait_s)
    fixed = replace(Options(), trigger=replace(Options().trigger, adaptive_debounce=False))
    assert completions._debounce_s(fixed) == 0


def test_a_dismissed_word_does_not_come_back_under_another_model(start, journal):
    # other options may mean another model: what the old one said is forgotten
    server = start(options={"trigger": {"speculate": False}})
    server.open(URI, "x = \n")
    server.inline(URI, 0, 4)
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": {"trigger": {"speculate": False}}}})
    server.inline(URI, 0, 4)
    assert len(fills(journal)) == 2


def text_of(items):
    return [item["insertText"] for item in items]


def test_what_a_key_brought_up_below_the_floor_does_not_come_by_itself(start, journal):
    server = start(options={"trigger": {"prefetch": False}})
    server.open(URI, "GUESS = \n")
    assert text_of(server.inline(URI, 0, 8, kind=1)) == ["filled"]
    # what would follow it will come by itself
    server.wait_for(lambda: len(fills(journal)) == 2, what="the fill ahead")
    assert fills(journal)[1]["min_confidence"] == Options().proposal.min_confidence
    assert fills(journal)[1]["num_alternatives"] == 1
    assert server.inline(URI, 0, 8) == []
    # but it stays while it is typed along
    server.change(URI, 2, insert(0, 8, "fi"))
    assert text_of(server.inline(URI, 0, 10)) == ["lled"]
    server.change(
        URI, 3, {"range": {"start": {"line": 0, "character": 8}, "end": {"line": 0, "character": 10}}, "text": ""}
    )
    assert server.inline(URI, 0, 8) == []


def test_what_was_dismissed_by_hand_is_forgotten(start, journal):
    server = start(options={"trigger": {"speculate": False}})
    server.open(URI, "x = \n")
    (item,) = server.inline(URI, 0, 4)
    server.notify("lacuna/didDismiss", {"item": item, "reason": "typedOver"})
    server.inline(URI, 0, 4)
    assert len(fills(journal)) == 1
    server.notify("lacuna/didDismiss", {"item": item, "reason": "explicit"})
    server.inline(URI, 0, 4)
    assert len(fills(journal)) == 2


def test_a_key_asks_for_more_than_what_is_there(start, journal):
    server = start(options={"trigger": {"speculate": False}})
    server.open(URI, "x = \nMANY\n")
    assert text_of(server.inline(URI, 1, 4)) == ["first"]
    assert text_of(server.inline(URI, 1, 4, kind=1)) == ["first", "second", "third"]
    assert [each["num_alternatives"] for each in fills(journal)] == [1, 3]
    # all that there is: from memory, and by itself one
    assert text_of(server.inline(URI, 1, 4, kind=1)) == ["first", "second", "third"]
    assert text_of(server.inline(URI, 1, 4)) == ["first"]
    assert len(fills(journal)) == 2
    # the first press gets the best one, the second asks for more; where the model has none, it is not asked again
    assert [text_of(server.inline(URI, 0, 4, kind=1)) for _ in range(4)] == [["filled"]] * 4
    assert [each["num_alternatives"] for each in fills(journal)] == [1, 3, 1, 3]


def test_what_is_shown_stays_the_first_when_a_key_asks_for_more(start, journal):
    server = start(options={"trigger": {"speculate": False}})
    server.open(URI, "x = \n")
    server.inline(URI, 0, 4)
    # typed along, and something else than its rest comes of the key
    server.change(URI, 2, insert(0, 4, "fi"))
    assert text_of(server.inline(URI, 0, 6, kind=1)) == ["lled", "filled"]
    assert text_of(server.inline(URI, 0, 6)) == ["lled"]

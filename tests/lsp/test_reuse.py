"""What is not asked of the model twice: typed-through reuse, prefetch while typing, and looking ahead."""

from __future__ import annotations

import time

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


def test_a_dismissed_word_does_not_come_back_under_another_model(start, journal):
    # other options may mean another model: what the old one said is forgotten
    server = start(options={"trigger": {"speculate": False}})
    server.open(URI, "x = \n")
    server.inline(URI, 0, 4)
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": {"trigger": {"speculate": False}}}})
    server.inline(URI, 0, 4)
    assert len(fills(journal)) == 2

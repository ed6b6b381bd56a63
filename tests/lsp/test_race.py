"""Edits racing requests: an answer belongs to the text it is applied to, and every request is answered."""

from __future__ import annotations

import random

import pytest
from fake_infiller import echo

PIECES = ["a", "ECHO ", "\n", "\r\n", "\t", "é", "\U0001f600", "x = ", "ECHO SLEEP3 ", "DECLINE", ")"]


class Typist:
    """A client that edits at random and knows its own text; positions in units of the encoding."""

    def __init__(self, server, uri, encoding, seed):
        self.server, self.uri, self.encoding = server, uri, encoding
        self.random = random.Random(seed)
        self.text, self.version = "ECHO \n", 1
        server.open(uri, self.text, version=1)

    def position(self, offset):
        before = self.text[:offset].replace("\r\n", "\n").replace("\r", "\n")
        line = before.split("\n")[-1]
        units = {"utf-8": len(line.encode()), "utf-16": len(line.encode("utf-16-le")) // 2, "utf-32": len(line)}
        return {"line": before.count("\n"), "character": units[self.encoding]}

    def somewhere(self):
        offset = self.random.randint(0, len(self.text))
        return offset - 1 if self.text[offset - 1 : offset + 1] == "\r\n" else offset

    def edit(self):
        low, high = sorted((self.somewhere(), self.somewhere()))
        high = min(high, low + 3) if self.text[low : low + 3].isalnum() else low
        new = self.random.choice(PIECES)
        change = {"range": {"start": self.position(low), "end": self.position(high)}, "text": new}
        self.text = self.text[:low] + new + self.text[high:]
        self.version += 1
        self.server.change(self.uri, self.version, change)

    def ask(self):
        """A request, and what a right answer to it is made from."""
        offset = self.somewhere()
        at = self.position(offset)
        request = self.server.start_inline(self.uri, at["line"], at["character"])
        return request, self.text, offset, at


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_answers_belong_to_their_text(start, encoding):
    server = start(encoding=encoding, options={"trigger": {"speculate": False}, "context": {"openDocuments": False}})
    typists = [Typist(server, f"file:///workspace/{n}.py", encoding, seed=n) for n in range(3)]
    chance = random.Random(7)
    asked = []
    for _ in range(250):
        typist = chance.choice(typists)
        if chance.random() < 0.6:
            typist.edit()
        else:
            asked.append((typist, *typist.ask()))
            if chance.random() < 0.2:
                server.cancel(asked[-1][1])
            if chance.random() < 0.5:
                server.wait(asked[-1][1])
    num_filled = 0
    for _, request, text, offset, at in asked:
        answer = server.wait(request)
        if not answer:
            continue
        num_filled += 1
        (item,) = answer
        assert item["range"] == {"start": at, "end": at}
        line = text[max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1 : offset]
        if "ECHO" in line:
            # the engine saw exactly the client's text; or it is the rest of what it said for a text typed along
            whole = item["insertText"]
            assert whole == echo(text, offset, offset) or len(whole) < 12
    assert num_filled > 10
    for typist in typists:
        # the texts are equal at the end: the echo of the whole says so
        typist.text += "\nECHO "
        typist.version += 1
        server.change(typist.uri, typist.version, {"text": typist.text})
        at = typist.position(len(typist.text))
        typist.text = typist.text[:-5]
        server.change(
            typist.uri,
            typist.version + 1,
            {"range": {"start": typist.position(len(typist.text)), "end": at}, "text": ""},
        )
        typist.text += "ECHO "
        end = typist.position(len(typist.text) - 5)
        server.change(typist.uri, typist.version + 2, {"range": {"start": end, "end": end}, "text": "ECHO "})
        at = typist.position(len(typist.text))
        (item,) = server.inline(typist.uri, at["line"], at["character"])
        assert item["insertText"] == echo(typist.text, len(typist.text), len(typist.text))
    assert not [line for line in server.stderr if "ERROR" in line or "Traceback" in line]

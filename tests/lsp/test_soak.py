"""A long day: many edits, requests and cancels. No growth, no request without an answer, no exception.

A short day in every run; `LACUNA_SOAK=1` makes it 100,000 edits and 10,000 requests.
"""

from __future__ import annotations

import os
import random
import sys
import time

import psutil
import pytest

IS_LONG = bool(os.environ.get("LACUNA_SOAK"))
NUM_EDITS = 100_000 if IS_LONG else 6_000
NUM_DOCUMENTS = 50
MAX_GROWTH_BYTES = (24 if IS_LONG else 12) << 20
TEXT = "".join(f"def function_{n}(x):\n    return x + {n}  # ECHO\n\n\n" for n in range(60))


@pytest.mark.timeout(1800)
def test_soak(start):
    server = start(options={"proposal": {"deadlineMs": 20000}}, env={"LACUNA_FAKE_LOG": "warning"})
    chance = random.Random(1)
    process = psutil.Process(server.process.pid)
    uris = [f"file:///workspace/{n}.py" for n in range(NUM_DOCUMENTS)]
    lines = {uri: TEXT.count("\n") for uri in uris}
    versions = dict.fromkeys(uris, 1)
    for uri in uris:
        server.open(uri, TEXT)
    asked: list[int] = []
    warm_bytes = 0
    begun = time.monotonic()
    for number in range(NUM_EDITS):
        uri = chance.choice(uris)
        versions[uri] += 1
        line = chance.randrange(lines[uri])
        at = {"line": line, "character": 0}
        new = chance.choice(["y", "\u00e9", "\U0001f600", "\t"])
        if chance.random() < 0.5:
            change = {"range": {"start": at, "end": {"line": line, "character": 1}}, "text": new}
        else:
            change = {"range": {"start": at, "end": at}, "text": new}
        server.change(uri, versions[uri], change)
        if number % 10 == 0:
            marker = {"line": line, "character": 1}
            asked.append(server.start_inline(uri, line, marker["character"]))
            if chance.random() < 0.3:
                server.cancel(asked[-1])
        if number % 500 == 499:
            # let it catch up, as a person does; and keep the texts from growing without end
            server.wait(asked[-1], timeout_s=120)
            reset = chance.choice(uris)
            versions[reset] += 1
            server.change(reset, versions[reset], {"text": TEXT})
        if number == NUM_EDITS // 3:
            server.wait(asked[-1], timeout_s=120)
            warm_bytes = process.memory_info().rss
    for request in asked:
        server.wait(request, timeout_s=120)
    elapsed_s = time.monotonic() - begun
    grown_bytes = process.memory_info().rss - warm_bytes
    grown = f"grown by {grown_bytes / 2**20:.1f} MiB"
    sys.stdout.write(f"{NUM_EDITS} edits, {len(asked)} requests in {elapsed_s:.0f} s, {grown}\n")
    assert grown_bytes < MAX_GROWTH_BYTES
    assert server.close() == 0
    assert not server.stderr
    assert not server.messages()

"""The real `lacuna serve` with the embedded model, for tests that must hold for any real model.

What it proposes is not known beforehand, so a test tries code that is easy to continue until something is proposed, and
then holds the editor to exactly those bytes.
"""

import sys
from pathlib import Path

LACUNA = Path(sys.executable).with_name("lacuna")
# two cores are shared with the editor and the browser here, and a test waits longer than a user would
# what is proposed must be shown: these tests are about the way to the screen, not about the threshold
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
SETTINGS = {
    "engine": {"kind": "local"},
    "proposal": {"deadlineMs": 30000, "minConfidence": 0},
    "trigger": {"backoffDismissals": 0},
}

EASY = (
    "def add(a, b):\n    return",
    "from __future__ import",
    "names = []\nfor name in names:\n    print(",
    "def main():\n    return 0\n\n\nif __name__ ==",
    "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y =",
    "first = [1, 2, 3]\nsecond = [1, 2, 3]\nthird = [1,",
    "try:\n    import json\nexcept",
    "with open(path) as",
    "for i in range(",
    "import os\n\npath = os.path.",
)
"""Beginnings of files; the last key, a space or what fits, is typed by the test."""

HOLES = (
    "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = y\n\n"
    "    def get_x(self):\n        ...\n\n"
    "    def get_y(self):\n        ...\n",
    "def add(a, b):\n    ...\n\n\ndef sub(a, b):\n    return a - b\n\n\ndef mul(a, b):\n    ...\n",
    "def first(items):\n    return items[0]\n\n\ndef last(items):\n    ...\n\n\ndef count(items):\n    ...\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        ...\n\n"
    "    def pop(self):\n        ...\n",
    "def is_empty(value):\n    ...\n\n\ndef is_none(value):\n    ...\n",
)
"""Files with two `...` each."""


BODY = (
    "def area(width, height):\n    result = width * height\n    print(result)\n    return result\n\n\n"
    "def load(path):\n    with open(path) as file:\n        data = file.read()\n    names = data.split()\n"
    "    names.append(path)\n    return names\n"
)
BODY_ROWS = (1, 2, 3, 8, 10, 11)
"""A file, and lines of it (from 0) that the model may rewrite; it leaves alone what it would write again."""


def last_key(text):
    """What the test types after a beginning: the key that makes the editor ask."""
    return text[-1] if text[-1] in "(.," else text[-1] + " "

"""A process that shares an engine: joins, then does what each line of stdin says and answers with a line of JSON.

Usage: share_engine.py FOLDER [LOAD_SECONDS]. Lines: "fill KIND", "who", "load", "unload", "calls", "close". Every load
is noted in FOLDER/loads.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fake_engine import FakeEngine
from lacuna_ls.engine.errors import LacunaError
from lacuna_ls.engine.problem import Canvas, CanvasProblem
from lacuna_ls.engine.shared import SharedEngine


def main() -> None:
    made: list[FakeEngine] = []
    folder, load_s = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0

    def load() -> FakeEngine:
        with (folder / "loads").open("a") as file:
            file.write(f"{os.getpid()} begin {time.monotonic()}\n")
        time.sleep(load_s)
        made.append(FakeEngine())
        return made[-1]

    engine = SharedEngine(load, "test", folder)
    print(json.dumps({"joined": os.getpid(), "host": engine.is_host}), flush=True)
    for line in sys.stdin:
        words = line.split()
        begun = time.monotonic()
        try:
            if words[0] == "fill":
                problem = CanvasProblem((int(words[1]), 2, 3), (Canvas.free(4),))
                (result,) = engine.fill(problem)
                answer = {"by": result.steps, "cancelled": result.is_cancelled, "tokens": result.tokens}
            elif words[0] == "who":
                status = engine.status()
                answer = {"host": engine.is_host, "detail": status.detail, "state": status.state}
            elif words[0] == "calls":
                answer = {"calls": made[-1].calls if made else []}
            elif words[0] in ("load", "unload"):
                getattr(engine, words[0])()
                answer = {}
            else:
                engine.close()
                answer = {}
        except LacunaError as error:
            answer = {"error": str(error)}
        print(json.dumps({**answer, "ms": (time.monotonic() - begun) * 1000}), flush=True)


if __name__ == "__main__":
    main()

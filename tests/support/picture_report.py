"""A picture of a benchmark report, rendered by chromium as a user's browser renders it. Run by hand.

    python tests/support/picture_report.py report.html docs/benchmark.png

Fails where the page asks for anything from outside, complains, or shows an empty plot. At most 150 KB.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

MAX_BYTES = 150_000
WIDTH, HEIGHT, MIN_HEIGHT = 1400, 1700, 500
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
EMPTY_PLOTS = "[...document.querySelectorAll('svg')].filter(each => each.getBoundingClientRect().height < 50).length"


def take(report: Path, picture: Path) -> None:
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: request.url.startswith("file:") or complaints.append(request.url))
        page.goto(report.resolve().as_uri())
        assert page.evaluate(EMPTY_PLOTS) == 0
        assert not complaints, complaints
        # the top of the page; as much of it as the size allows
        for height in range(HEIGHT, MIN_HEIGHT, -100):
            page.screenshot(path=str(picture), clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
            if picture.stat().st_size <= MAX_BYTES:
                break
        browser.close()
    size = picture.stat().st_size
    assert size <= MAX_BYTES, f"{picture} has {size} bytes"
    sys.stdout.write(f"{picture} {size} bytes\n")


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))

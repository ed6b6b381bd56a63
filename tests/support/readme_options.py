"""Writes README.md's table of options from lsp/options.py (`make docs`). tests/test_house.py tells when it is due."""

from __future__ import annotations

from pathlib import Path

from lacuna_ls.lsp.options import markdown_table

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- options: written by `make docs` from lsp/options.py -->\n", "<!-- end of options -->\n"


def with_table(readme: str) -> str:
    """readme with the table between its two markers brought up to date."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has lost the markers {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n{markdown_table()}\n{end}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")

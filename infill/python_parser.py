"""What this interpreter's own parser says of a piece of Python: is it a program, or may it become one?

Beside tree-sitter's grammar, which forgives missing bodies and wrong indentation. Knows no document.
"""

from __future__ import annotations

import ast
import warnings

_INCOMPLETE = 0x4000
"""PyCF_ALLOW_INCOMPLETE_INPUT of the standard library's codeop, which its stubs do not name."""


def may_become_python(text: str) -> bool:
    """Whether a program may begin with these lines, as this interpreter's parser sees it; see is_python.

    Source: codeop of the standard library, which tells an incomplete command from a wrong one by the same flag.
    """
    return _complaint(text, _INCOMPLETE) in ("", "incomplete input")


def is_python(text: str) -> bool:
    """Whether this interpreter's parser accepts a piece of Python, taken at whatever indentation it stands."""
    return not _complaint(text)


def _complaint(text: str, flags: int = 0) -> str:
    """What the parser says against a piece of Python; "" for nothing."""
    if text.lstrip("\r\n")[:1] in (" ", "\t"):
        text = "if 1:\n" + text
    try:
        with warnings.catch_warnings():
            # an invalid escape in the user's file is none of our business
            warnings.simplefilter("ignore")
            compile(text, "<text>", "exec", ast.PyCF_ONLY_AST | flags, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return error.msg if isinstance(error, SyntaxError) else type(error).__name__
    return ""

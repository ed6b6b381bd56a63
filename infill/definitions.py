"""How a function and a class are defined, one row of rules a family of languages: see Rules (parameters.py).

A pattern is tried at every line of a workspace while it is read, so each goes through a line once, whatever is in it.
"""

from __future__ import annotations

import re
from io import BytesIO

from .definitions_more import MORE
from .languages import Language
from .parameters import Rules

_PYTHON = Rules(
    languages=("python",),
    defines=re.compile(
        r"[ \t]*(?:(?:async[ \t]+)?def[ \t]+(?P<f>\w+)[ \t]*(?:\[[^\]\n]*\])?\("
        r"|class[ \t]+(?P<class>\w+))"
    ),
    follows=re.compile(r"\s*(?:->[^\n]*)?:"),
    parameter=re.compile(r"(?P<rest>\*{0,2})(?P<name>\w*)\s*(?::[^=]*)?(?P<default>=.*)?", re.DOTALL),
    constructor=re.compile(r"^[ \t]+def[ \t]+__init__[ \t]*\(", re.MULTILINE),
    bases=re.compile(r"[ \t]*class[ \t]+\w+[ \t]*(?:\[[^\]\n]*\])?[ \t]*\((?:[\w]+\.)*(\w+)[,)\[]"),
    own=frozenset(("self", "cls", "mcs", "mcls")),
    builtin=frozenset(
        (
            *(name for each in (bytes, dict, list, set, str, BytesIO) for name in dir(each)),
            *"debug info warning exception critical group groups groupdict".split(),  # noqa: SIM905
        )
    ),
    keyword=True,
    weights="by_name",
    member="self.",
    fields=re.compile(
        r"[ \t]+(?P<name>[a-z_]\w*)[ \t]*:[ \t]*(?!(?:\w+\.)?ClassVar)"
        r"[^=\n]+(?P<default>=(?!.*\binit=False)[^\n]*)?$"
    ),
    has_fields=re.compile(
        r"@(?:[\w.]*\.)?(?:dataclass|define|frozen|mutable|attrs|s)\b(?:\([^\n]*)?[ \t]*\n(?:[ \t]*@[^\n]*\n)*\Z"
        r"|class[ \t]+\w+\((?:[\w.]*\.)?(?:NamedTuple|BaseModel|Struct)\)"
    ),
    by_name=re.compile(r"\bkw_only[ \t]*=[ \t]*True\b|\bBaseModel\)"),
    uncalled=re.compile(
        r"@[\w.]*(?:property|\.setter|\.deleter|fixture|\.command|\.group)\b[^\n]*\n"
        r"(?:(?![ \t]*(?:async|class|def|return)\b)[^\n]+\n)*\Z"
    ),
)

_NAME = r"[A-Za-z_$][\w$]*"
_GOES_ON = r"(?:(?=[^\n]*=>)|(?=[^\n]*[({,][ \t]*\r?$)|(?=[^\n]*;[ \t]*\r?$)(?=[^\n]*\)[ \t]*:))"
"""A body, or parameters, may follow in the lines below, or a type does; a mere call ends with its bracket."""
_ECMASCRIPT = Rules(
    languages=("javascript", "typescript", "tsx"),
    defines=re.compile(
        rf"""[ \t]*(?:export[ \t]+)?(?:default[ \t]+)?(?:declare[ \t]+)?(?:
            (?:async[ \t]+)?function\b[ \t]*\*?[ \t]*(?P<free>{_NAME})[ \t]*+(?:<[^()\n]*>)?[ \t]*+\(
            |(?:abstract[ \t]+)?class[ \t]+(?P<class>{_NAME})
            |(?:(?:(?:const|let|var)[ \t]+|(?:module\.)?exports\.)(?P<free1>{_NAME})
             |(?>(?:[\w$]++\.)+)(?P<member1>{_NAME})|(?P<f>{_NAME}))[ \t]*(?::[^=\n]*)?=[ \t]*(?:async[ \t]*)?
             (?:function\b[^(\n]*\(|(?:<[^()\n]*>)?\({_GOES_ON})
            |(?P<member2>{_NAME})[ \t]*:[ \t]*(?:async[ \t]*)?(?:function\b[^(\n]*\(|\({_GOES_ON})
            |(?:(?:public|private|protected|static|async|override|readonly|abstract)[ \t]+)*[*\#]?
             (?!(?:if|for|while|switch|catch|function|return|with|super|await|constructor)\b)
             (?P<member3>{_NAME})[ \t]*+(?:<[^()\n]*>)?[ \t]*+\({_GOES_ON})""",
        re.VERBOSE | re.MULTILINE,
    ),
    follows=re.compile(r"\s*+(?::[^;={}\n]*+(?:\{[^{}\n]*\}[^;={}\n]*+)?)?(?:\{|=>)|\s*+:[^;={}\n]*;"),
    parameter=re.compile(
        rf"(?:(?:public|private|protected|readonly|override)\s+)*(?P<rest>(?:\.\.\.)?)(?P<name>{_NAME}|)"
        rf"(?P<optional>\??)\s*+(?P<pattern>[\[{{].*[\]}}])?\s*+(?::(?:[^=]|=>)*)?(?P<default>=(?!>).*)?",
        re.DOTALL,
    ),
    constructor=re.compile(r"^[ \t]+(?:(?:public|private|protected)[ \t]+)?constructor[ \t]*\(", re.MULTILINE),
    bases=re.compile(rf"[^\n{{]*\bextends[ \t]+(?:[\w$]+\.)*({_NAME})"),
    own=frozenset(("this",)),
    builtin=frozenset(
        """
        add all any apply at bind call catch charAt charCodeAt clear concat debug delete emit end endsWith entries error
        every exec fill filter finally find findIndex flat flatMap forEach get has hasOwnProperty includes indexOf
        info join keys lastIndexOf log map match matchAll next off on once padEnd padStart pop push race reduce
        reject replace replaceAll resolve reverse search set shift slice some sort splice split startsWith substring
        test then toString trim unshift values warn write
        """.split()  # noqa: SIM905
    ),
    member="this.",
    header_ends=((re.compile(r"\s*(?:\}\s*)?(?:else\s+)?(?:if|while|for|switch)\b"), ")", " {"),),
)

_RULES = {language: rules for rules in (_PYTHON, _ECMASCRIPT, *MORE) for language in rules.languages}


def rules_of(language: Language) -> Rules | None:
    """The rules of a language; None where none are known."""
    return _RULES.get(language.name)

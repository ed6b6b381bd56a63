"""What must not be read and not be proposed in: secret files, ignored files; and secrets inside files that may be read.

The built-in list cannot be switched off by a workspace: ignore files only ever add to it. Knows paths and text, no
document and no editor.
"""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

from pathspec import GitIgnoreSpec, RegexPattern

DENY_LIST: tuple[str, ...] = (
    ".env", ".env.*", "*.env", ".envrc", ".dev.vars", "!.env.example", "!.env.sample", "!.env.template",
    "*.pem", "*.key", "*.crt", "*.cer", "*.cert", "*.der", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.gpg",
    "*.asc", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.ppk",
    "secret", "secrets", "secret.*", "secrets.*", "*.secret", "*.secrets", "credentials", "credentials.*",
    "service-account*.json", "*.tfstate", "*.tfstate.*", "*.tfvars",
    ".ssh/", ".aws/", ".azure/", ".gnupg/", ".kube/", ".gcloud/", ".docker/config.json",
    ".netrc", "_netrc", ".pgpass", ".npmrc", ".pypirc", ".htpasswd", ".git-credentials", ".vault-token", ".my.cnf",
)  # fmt: skip
"""gitignore patterns, matched on lower-cased paths. The exceptions are templates that hold no secrets by convention."""

IGNORE_FILES = (".gitignore", ".lacunaignore", ".copilotignore")
"""Read in every folder from the outermost of workspace and repository down to a file's own."""

MAX_IGNORE_BYTES, MAX_PATTERN_CHARS = 1 << 18, 4096
"""So much of an ignore file is read, and of its lines those that are no longer; no path is."""

_USERS_FILE = re.compile(r"^[ \t]*excludesfile[ \t]*=[ \t]*\"?([^\"#;\n]+)", re.IGNORECASE | re.MULTILINE)
"""Where the user's own configuration of git says that their ignore file is."""

CASE = re.IGNORECASE if sys.platform in ("win32", "darwin") else re.NOFLAG
"""Where file names have no case, patterns have none for git either (core.ignorecase)."""

FORM: Literal["NFC"] | None = "NFC" if sys.platform == "darwin" else None
"""macOS may give out an accent apart from its letter, and opens a file by either name; git puts them together first
(core.precomposeunicode), as whoever types a pattern does."""

_CLASS = re.compile(r"\[:([a-z]+):\]")
_CLASSES = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": " \t", "digit": "0-9", "lower": "a-z", "space": " \t-\r",
    "upper": "A-Z", "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip
"""POSIX' classes, inside of the brackets that they stand in."""

# the class has another name in every version
_TO_REGEX: Callable[[str], tuple[str | None, bool | None]] = cast(
    Any, type(GitIgnoreSpec.from_lines(["*"]).patterns[0])
).pattern_to_regex
_STARS = re.compile(r"(?:\[\^/\]\*)+")
_STAR_TO_STAR = re.compile(r"\[\^/\]\*((?:\\.|\[\^?\]?[^\]]*\](?!\*)|[^\\\[/.*+?(){}|^$])+)(?=\[\^/\]\*)")
_FOLDERS_TO_FOLDERS = re.compile(r"\(\?:/\.\+\)\?(.+?)(?=\(\?:/\.\+\)\?)")
"""In what pathspec makes of a pattern: a star, or `/**`, with what stands between it and the next one."""

FOUND_S = 3.0
"""How long it is remembered which repository a folder lies in."""

REDACTED = "<redacted>"

MIN_UNQUOTED = 8
"""A shorter value without quotes is no secret."""
MAX_BEFORE = 80
"""So much may stand in a line before a name that is given such a value."""

# the first letter is a class of its own, because a search skips quickly to what may begin a match
_KEY = re.compile(
    r"""([pPsStTaAcCeE](?i:(?<=p)(?:ass(?:word|wd|phrase)?|wd|rivate[_-]?key)|(?<=s)(?:ecret|igning[_-]?key)
        |(?<=t)oken(?!i[sz])|(?<=a)(?:pi|ccess|uth)[_-]?key|(?<=c)redential|(?<=e)ncryption[_-]?key)[\w.-]{0,60})["']?\s*(:=|=>|[:=])\s*""",
    re.VERBOSE,
)
# atomic, since Python before 3.11.5 finds nothing where a group that has choices is repeated possessively
_QUOTED = re.compile(r"""[fbruFBRU]{0,2}(\"{3}|'{3}|["'`])((?>(?:(?!\1)[^\n\\]|\\.){6,}))\1""")
_UNQUOTED = re.compile(r"""[^\s"'`]{8,}""")
_LINE_START = re.compile(
    r"""[ \t]*(?:(?:\#+|//|[-+*;])[ \t]*)?(?:(?:export|set|env|arg)[ \t]+)?["']?([\w.-]*)""", re.IGNORECASE | re.VERBOSE
)
"""What may stand before the name in a line of a settings file, a shell script or a comment."""
_CODE = re.compile(r"[^()\[\]{}<>]*(?:[()\[\]{}<>]|://)|[=:/.~$%&*!@|>-]|(?:0[xX][\da-fA-F]+|[\d_.]+)$")
"""The beginning of a value that is computed, a path, an address or a number."""
_NAMES = re.compile(r"(?:[\w.:?!|&>*-]|=(?=\w))+|[a-z\d_./-]+")
"""Names, what joins them, and types."""
_SCRAMBLED = re.compile(r"[A-Za-z]\d+[a-z][A-Za-z]*\d|(?:\d[A-Za-z]*){5}")
"""Letters and digits mixed as nobody mixes them in a name."""
_BEARER = re.compile(r"""([Bb]earer[ \t]+|[Aa]uthorization["']?[ \t]*[:=,][ \t]*["'`]?[Bb]asic[ \t]+)[\w.~+/=-]{16,}""")
_KEY_BLOCK = re.compile(
    r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----)(.*?)(-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_LOGIN = re.compile(
    r"""(\bcurl\b[^\n|;]{0,200}?\s(?:-u|--user)[ =]?["']?[^\s"':$]{1,100}:
        |\bauth\s*=\s*\(\s*["'][^"'\n]*["']\s*,\s*["'])([^\s"'`]{6,})""",
    re.VERBOSE,
)
"""A name and a password for curl, and for the HTTP libraries of Python."""
_IN_URL = re.compile(r"(?<=://)([^\s/:@\"']*):([^\s/@\"']+)(?=@)")
"""Name and password of an address; Redis' have no name."""
_PUT_IN = re.compile(r"\$?\{[^{}]*\}|\{\{[^{}]*\}\}|\$\w+|%s|%\(\w+\)s|<[^<>]*>")
"""What stands for a password that is put in later."""
_TOKENS = re.compile(
    r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|gl(?:pat|rt|dt|ptt)-[\w-]{16,}"
    r"|sk-(?=[a-z_-]{0,60}[A-Z\d])[A-Za-z0-9_-]{20,}|xox[abeprs]-[A-Za-z0-9-]{10,}|AIza[\w-]{30,}|hf_[A-Za-z0-9]{20,}"
    r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|do[opr]_v1_[a-f0-9]{40,}|dckr_pat_[\w-]{20,}|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"
    r"|ya29\.[\w-]{20,}|AGE-SECRET-KEY-1[A-Z0-9]{50,}|(?:(?<=AccountKey=)|(?<=AccessKey=)|(?<=[?&]sig=))[A-Za-z0-9+/=%]{40,}"
    r"|(?:(?<=;Password=)|(?<=;Pwd=)|(?<=;PWD=))(?=[^\d\s;]{0,99}\d)[^\s;\"'`{}()<>%$]{6,}(?=[;\"'`])"
    r"|hvs\.[\w-]{20,}|xapp-[\w-]{16,}|ATATT3[\w-]{20,}|\d{8,10}:AA[\w-]{33}"
    r"|(?<=hooks\.slack\.com/services/)\w{8,}/\w{8,}/\w{16,}|(?<=/api/webhooks/)\d{15,}/[\w-]{40,}"
    r"|(?<!-)eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})"
)


@dataclass(frozen=True, slots=True)
class _Rule:
    """One line of an ignore file.

    is_ignored: what it says; False takes back what another one says. is_for_folders: whether about folders alone.
    """

    pattern: re.Pattern[str]
    is_ignored: bool
    is_for_folders: bool

    def is_about(self, name: str, is_folder: bool) -> bool:
        """name: a path below the file's own folder, without a slash at its end. What lies in a folder that it names is
        none of its business: whoever walks down has asked about that folder before."""
        found = self.pattern.search(name) if is_folder or not self.is_for_folders else None
        # pathspec's mark of a match that goes on below a folder
        return found is not None and found.groupdict().get("ps_d") is None


class PathRules:
    """Says which files are off limits. Ignore files are read once per folder and again when they change."""

    def __init__(
        self, roots: Iterable[str | Path] = (), extra: Iterable[str] = (), *, is_everywhere: bool = False
    ) -> None:
        """roots: the workspace's folders; ignore files count inside them, and in the repositories that they lie in.
        extra: more gitignore patterns, from the user's own settings. is_everywhere: ignore files count for files
        outside of all roots, too, from their repository down.
        """
        self._roots = [Path(_composed(str(root))).absolute() for root in roots]
        self._is_everywhere = is_everywhere
        self._deny = _spec(DENY_LIST)
        self._extra = _spec(extra)
        self._users_file = _users_file()
        self._rules: dict[Path, tuple[tuple[int, ...], Sequence[_Rule]]] = {}
        self._repositories: dict[Path, tuple[float, Path | None]] = {}

    def is_excluded(self, path: str | Path) -> bool:
        """Whether a file must be neither read nor proposed in. A path without a file behind it counts by its name."""
        if not str(path):
            return False
        whole = Path(_composed(str(path))).absolute()
        inside = PurePosixPath(*whole.parts[1:]).as_posix()
        if self._deny.match_file(inside.lower()) or self._extra.match_file(inside):
            return True
        top = self._top(whole)
        return top is not None and self._is_ignored(whole, top)

    def _top(self, whole: Path) -> Path | None:
        """The outermost folder whose ignore files count for a file; None: none do."""
        roots = [root for root in self._roots if whole.is_relative_to(root)]
        if roots:
            # a workspace may be a part of a repository, and a repository a part of a workspace
            return min((self._repository(root) or root for root in roots), key=lambda top: len(top.parts))
        return self._repository(whole.parent) if self._is_everywhere else None

    def _repository(self, folder: Path) -> Path | None:
        """The nearest folder that holds .git, from this one upwards. Without one no ignore file is looked for: those
        between here and the root of the disk are nobody's."""
        now = time.monotonic()
        known = self._repositories.get(folder)
        if known is None or now - known[0] > FOUND_S:
            if len(self._repositories) > 1000:
                self._repositories.clear()
            found = next((each for each in (folder, *folder.parents) if _stamp(each / ".git")), None)
            known = self._repositories[folder] = (now, found)
        return known[1]

    def _is_ignored(self, whole: Path, top: Path) -> bool:
        """What git would say of the file and the folders it lies in; a folder's rules overrule those above it."""
        parts = whole.relative_to(top).parts
        # of the folder walked into, the latest line first; git puts the user's own file below all others
        rules = [(0, rule) for rule in self._read(self._users_file, (_stamp(self._users_file),), [self._users_file])]
        folder = top
        for depth in range(1, len(parts) + 1):
            rules = [*((depth - 1, rule) for rule in self._rules_of(folder)), *rules]
            is_folder = depth < len(parts)
            names = {at: "/".join(parts[at:depth]) for at in {at for at, _ in rules}}
            verdict = next((rule.is_ignored for at, rule in rules if rule.is_about(names[at], is_folder)), False)
            if verdict:
                # what lies in an ignored folder cannot be taken back
                return True
            folder /= parts[depth - 1]
        return False

    def _rules_of(self, folder: Path) -> Sequence[_Rule]:
        """What the ignore files of one folder say, the latest line first: what is said later overrules."""
        files = [folder / name for name in IGNORE_FILES]
        stamps = (_exclude_stamp(folder), *map(_stamp, files))
        # git, too, puts the repository's own file below .gitignore
        return self._read(folder, stamps, [_exclude_file(folder) if stamps[0] else folder, *files])

    def _read(self, key: Path, stamps: tuple[int, ...], files: Sequence[Path]) -> Sequence[_Rule]:
        """The rules of the files that have a stamp, the latest line first. key: of what is remembered."""
        known = self._rules.get(key)
        if known is not None and known[0] == stamps:
            return known[1]
        lines = [line for file, stamp in zip(files, stamps, strict=True) if stamp for line in _lines(file)]
        found = [rule for line in reversed(lines) if (rule := _rule(line)) is not None]
        self._rules[key] = (stamps, found)
        return found


def _users_file() -> Path:
    """The ignore file that the user's git has for every repository. It need not exist."""
    # Path's own way raises where there is no such user
    expanded = os.path.expanduser
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or expanded("~/.config"), "git")
    written = _text(folder / "config") + "\n" + _text(Path(expanded("~/.gitconfig")))
    named = _USERS_FILE.findall(written)
    return Path(expanded(named[-1].strip())) if named else folder / "ignore"


def _exclude_stamp(folder: Path) -> int:
    """When .git/info/exclude was written; 0 where there is none."""
    try:
        return (folder / ".git" / "info" / "exclude").stat().st_mtime_ns or 1
    except NotADirectoryError:
        # a worktree or a submodule
        return _stamp(_exclude_file(folder))
    except OSError:
        return 0


def _exclude_file(folder: Path) -> Path:
    """Where a repository has its own ignore file. In a worktree or a submodule `.git` is a file that says where."""
    git = folder / ".git"
    try:
        if git.is_file():
            git = folder / _text(git).removeprefix("gitdir:").strip()
        common = git / "commondir"
        if common.is_file():
            git = git / _text(common).strip()
    except OSError:
        pass
    return git / "info" / "exclude"


def _stamp(path: Path) -> int:
    """When a file was written; 0 where there is none."""
    try:
        # what some tools unpack was written in the year 1970
        return path.stat().st_mtime_ns or 1
    except (OSError, ValueError):
        # ValueError: what a file named has a NUL in it, and is no path
        return 0


def _composed(text: str) -> str:
    """Text in the form that names are compared in."""
    return unicodedata.normalize(FORM, text) if FORM else text


def _text(path: Path) -> str:
    """The beginning of a file; empty where there is none, or where it is a pipe or a device, which may have no end."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(MAX_IGNORE_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    # a line ends where git says so: one carriage return before the newline belongs to it, another is part of the name
    return [line.removesuffix("\r") for line in _text(path).split("\n")]


def _rule(line: str) -> _Rule | None:
    """A line of an ignore file; None where it says nothing, or is no pattern: it must not switch off the others."""
    body = line if line.endswith("\\ ") else line.rstrip(" ")
    is_for_folders = body.endswith("/")
    # what git knows and pathspec does not
    body = _CLASS.sub(lambda m: _CLASSES.get(m[1], m[0]), body.removesuffix("/"))
    if body.endswith("\r"):
        # pathspec takes more than blanks from the end
        body = f"{body[:-1]}[\r]"
    pattern = _pattern(body)
    return None if pattern is None else _Rule(pattern[0], pattern[1], is_for_folders)


def _spec(lines: Iterable[str]) -> GitIgnoreSpec:
    """The patterns of lines; those that are none are left out."""
    patterns: list[Any] = [RegexPattern(*pattern) for line in lines if (pattern := _pattern(line)) is not None]
    return GitIgnoreSpec(patterns)


def _pattern(line: str) -> tuple[re.Pattern[str], bool] | None:
    """What a line matches, in no time, and whether that is ignored; None for what is no pattern.

    pathspec's own expression tries all ways to share out a name among the stars of a pattern.
    """
    if len(line) > MAX_PATTERN_CHARS:
        return None
    try:
        regex, is_ignored = _TO_REGEX(_composed(line))
        if regex is None or is_ignored is None:
            return None
        # where the first place fits that what follows a star has, no later one fits better
        regex = _STAR_TO_STAR.sub(r"(?>[^/]*?\1)", _STARS.sub("[^/]*", regex))
        return re.compile(_FOLDERS_TO_FOLDERS.sub(r"(?>(?:/.+?)??\1(?=/))", regex), CASE), is_ignored
    except (ValueError, re.error):
        # no way to begin or to end one, or a range that runs backwards
        return None


def redact(text: str) -> str:
    """Text with likely secrets replaced by REDACTED; its lines stay where they are."""
    text = _KEY_BLOCK.sub(lambda m: m[1] + "\n" * m[2].count("\n") + m[3], text)
    text = _IN_URL.sub(lambda m: m[0] if _PUT_IN.fullmatch(m[2]) else f"{m[1] and REDACTED}:{REDACTED}", text)
    text = _LOGIN.sub(lambda m: m[0] if _PUT_IN.fullmatch(m[2]) else m[1] + REDACTED, text)
    text = _TOKENS.sub(REDACTED, text)
    text = _BEARER.sub(lambda m: m[1] + REDACTED, text)
    return _without_assigned(text)


def _without_assigned(text: str) -> str:
    """Text without the values that are given to names like `password`."""
    pieces: list[str] = []
    at = 0
    for key in _KEY.finditer(text):
        start = key.end()
        if key.start() < at:
            # inside of a value that was taken out
            continue
        if (quoted := _QUOTED.match(text, start)) is not None:
            pieces += (text[at : quoted.start(2)], REDACTED)
            at = quoted.end(2)
        elif (length := _unquoted(text, key)) > 0:
            pieces += (text[at:start], REDACTED)
            at = start + length
    return "".join((*pieces, text[at:]))


def _unquoted(text: str, key: re.Match[str]) -> int:
    """The length of a secret without quotes behind a name, as settings files have it; 0 for what is no secret."""
    begin = text.rfind("\n", max(0, key.start() - MAX_BEFORE), key.start()) + 1
    before = _LINE_START.fullmatch(text, begin, key.start()) if begin or key.start() <= MAX_BEFORE else None
    value = _UNQUOTED.match(text, key.end()) if before is not None else None
    if before is None or value is None or "\n" in key[0]:
        return 0
    whole = value[0].rstrip(",;")
    # longer values need no longer look
    shown = whole[:512].partition(",")[0]
    if len(shown) < MIN_UNQUOTED or _CODE.match(shown):
        return 0
    # in code a word is a name, in a line of a shell it is the value
    is_shell = key[0] == f"{key[1]}=" and (before[1] + key[1]).isupper() and whole == value[0]
    is_name = _NAMES.fullmatch(shown) and not _SCRAMBLED.search(shown)
    return 0 if is_name and not (is_shell and shown.isalnum()) else len(whole)

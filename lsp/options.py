"""The one configuration tree: every option, its type, default, range and description.

README's table and both editors' settings are generated from it (`lacuna options`). Knows how to read and print itself;
applies nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from .settings import Row, parse, rows, value

REMOTE_TOKEN_VARIABLE = "LACUNA_REMOTE_TOKEN"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Where the model runs."""

    kind: str = value(
        "auto",
        "Where the model runs. auto: one model shared by all windows of this user where the system can, else in this "
        "process. local: always in this process. An http(s) address: a vLLM server, asked by tokens where the "
        "tokenizer of its model is on this machine (engine.model, or the Hugging Face cache), else by text; bearer "
        f"token from the environment variable {REMOTE_TOKEN_VARIABLE} only.",
        scope="user",
    )
    model: str = value(
        "",
        "Folder of a checkpoint, or the name of one in the Hugging Face cache; it is loaded by the first request. "
        "Empty: the small model that comes with Lacuna.",
        scope="user",
    )
    device: str = value(
        "auto",
        "Device of a local model. auto: the GPU for a model of your own where there is one, else the CPU.",
        choices=("auto", "cpu", "cuda"),
        scope="user",
    )
    idle_unload_minutes: int = value(
        30,
        "Give the model's memory back after so many minutes without a request; the next one loads it again. 0: never.",
        minimum=0,
        maximum=1440,
        scope="user",
    )
    kv_tokens: int = value(
        8192,
        "Tokens of context that a quantised model keeps in memory, of all documents together; the longest unused make "
        "room. `lacuna doctor --model DIR` tells what they cost.",
        # engine/life.py says why, and cannot be imported here because it needs torch
        minimum=2048,
        maximum=262144,
        scope="user",
    )
    vram_cap_gib: float = value(
        0.0,
        "Most GPU memory that Lacuna may take, in GiB; a model that needs more is refused with advice. 0: all that is "
        "free.",
        minimum=0.0,
        maximum=1024.0,
        scope="user",
    )
    adapter: bool = value(
        True,
        "Load what `lacuna adapt` has learnt of this workspace into the model, where there is such an adapter. false: "
        "the model as it is.",
        scope="user",
    )
    remote_timeout_ms: int = value(
        5000, "Longest wait for an answer of a remote engine.", minimum=100, maximum=120000, scope="user"
    )
    remote_model: str = value("", "Model name to ask a remote engine for. Empty: the first one it lists.", scope="user")

    @property
    def is_remote(self) -> bool:
        """Whether kind is the address of a server."""
        return self.kind.startswith(("http://", "https://"))

    def within(self, kv_tokens: int | None, vram_cap_gib: float | None) -> EngineOptions:
        """The same with other budgets, where they are given."""
        return replace(self, kv_tokens=kv_tokens or self.kv_tokens, vram_cap_gib=vram_cap_gib or self.vram_cap_gib)


@dataclass(frozen=True, slots=True)
class ProposalOptions:
    """What is proposed."""

    extent: str = value(
        "auto",
        "How much to propose: auto lets the syntax tree decide, line never goes past the end of the line, block fills "
        "whole blocks.",
        choices=("auto", "line", "block"),
        by_language=True,
    )
    alternatives: int = value(
        1, "Proposals per answer; editors cycle through them.", minimum=1, maximum=5, by_language=True
    )
    # with the embedded model and its drafts, on lines of six held-out packages (docs/MODEL_CARD.md): at 0 a proposal
    # is shown for 87 % of them and 23 % of those shown are exact; at 0.1 it is 52 % and 39 %, at 0.3 31 % and 61 %
    min_confidence: float = value(
        0.1,
        "Show a proposal only when the probability that it is exactly right is at least this; asked for by a key, it "
        "is shown whatever its probability.",
        minimum=0.0,
        maximum=1.0,
        by_language=True,
    )
    deadline_ms: int = value(
        2000,
        "Longest time an automatic request may take before it is answered with nothing.",
        minimum=20,
        maximum=60000,
    )
    in_comments: bool = value(True, "Propose inside comments.", by_language=True)


@dataclass(frozen=True, slots=True)
class TriggerOptions:
    """When something is proposed."""

    automatic: bool = value(True, "Propose while typing. false: only when asked by a key.", by_language=True)
    debounce_ms: int = value(0, "Wait this long after a keystroke before filling.", minimum=0, maximum=5000)
    adaptive_debounce: bool = value(
        True, "When the model is slower than the typing, wait longer by itself (at most half a second)."
    )
    backoff_dismissals: int = value(
        4,
        "After so many dismissals by hand in a row, stay quiet for a while: 2 s, doubling up to 30 s, until something "
        "is accepted or asked for by a key. 0: never.",
        minimum=0,
        maximum=100,
    )
    prefetch: bool = value(True, "Read the changed text into the model's cache while typing, before it is asked for.")
    speculate: bool = value(
        True,
        "Fill before it is asked: after a key where the editor asks after each, and, while a proposal is shown, what "
        "would follow once it is accepted.",
    )


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """What the model reads besides the document itself."""

    open_documents: bool = value(True, "Read open documents of the same language as context.")
    max_documents: int = value(8, "At most so many other documents.", minimum=0, maximum=64)
    workspace: bool = value(
        True, "Read the workspace's source files in the background; similar places in them suggest what to fill in."
    )


@dataclass(frozen=True, slots=True)
class PrivacyOptions:
    """What is never read and never proposed in. A workspace cannot weaken these."""

    ignore_files: bool = value(
        True,
        "What git ignores, or a .lacunaignore or .copilotignore names, is neither read as context nor proposed in.",
        scope="user",
    )
    deny: tuple[str, ...] = value(
        (),
        "More path patterns (gitignore syntax) never read, beside the built-in list (.env*, *.pem, *.key, ...).",
        scope="user",
    )
    redact_secrets: bool = value(True, "Replace likely secrets in context by a placeholder.", scope="user")
    metrics: bool = value(
        True, "Count proposals shown and accepted, on this machine only. See `lacuna metrics`.", scope="user"
    )


@dataclass(frozen=True, slots=True)
class DisableOptions:
    """Where nothing is proposed."""

    languages: tuple[str, ...] = value((), "Language ids in which nothing is proposed.")
    paths: tuple[str, ...] = value((), "Path patterns (gitignore syntax) in which nothing is proposed.")


@dataclass(frozen=True, slots=True)
class FeatureOptions:
    """Parts that can be switched on or off."""

    completion_fallback: bool = value(
        False, "Also offer the proposal in the ordinary completion list, for editors without ghost text."
    )
    code_actions: bool = value(True, "Offer fill, rewrite and repair as code actions.")
    next_edit: bool = value(False, "After an edit, propose the related changes elsewhere in the file.")


@dataclass(frozen=True, slots=True)
class Options:
    """All options. Frozen: a change of configuration makes a new one."""

    enable: bool = value(True, "Switch Lacuna off without uninstalling it.", by_language=True)
    engine: EngineOptions = field(default_factory=EngineOptions)
    proposal: ProposalOptions = field(default_factory=ProposalOptions)
    trigger: TriggerOptions = field(default_factory=TriggerOptions)
    context: ContextOptions = field(default_factory=ContextOptions)
    privacy: PrivacyOptions = field(default_factory=PrivacyOptions)
    disable: DisableOptions = field(default_factory=DisableOptions)
    features: FeatureOptions = field(default_factory=FeatureOptions)
    languages: Mapping[str, Any] = value(
        {},
        'Per-language overrides, by language id, for example {"markdown": {"enable": false}, '
        '"go": {"proposal": {"extent": "line"}}}.',
    )


ROWS: tuple[Row, ...] = tuple(rows(Options))
LANGUAGE_ROWS: tuple[Row, ...] = tuple(row for row in ROWS if row.setting.by_language)


def read_options(raw: object, *, base: Options | None = None, is_workspace: bool = False) -> tuple[Options, list[str]]:
    """Options from what an editor sent, over base; and one message per value that could not be used.

    raw may be the settings themselves or an object with a key "lacuna". is_workspace: raw comes from a workspace, so
    user-scoped values in it do not count, and what base forbids stays forbidden.
    """
    given: object = raw
    if isinstance(raw, Mapping) and "lacuna" in raw:
        given = cast(Mapping[str, object], raw)["lacuna"]
    scopes = frozenset({"resource"}) if is_workspace else frozenset({"resource", "user"})
    options, messages = parse(Options, given, scopes=scopes, base=base or Options())
    if (kind := options.engine.kind) not in ("auto", "local") and not re.fullmatch(r"https?://[^\s]+", kind):
        messages.append(f"lacuna.engine.kind: {kind!r} is not auto, local or an http(s) address; using 'auto'.")
        options = replace(options, engine=replace(options.engine, kind="auto"))
    overrides: dict[str, Any] = {}
    for language, given in options.languages.items():
        _, more = _override(options, language, given)
        messages += more
        overrides[language] = given
    if is_workspace:
        options, more = _still_forbidden(options, base or Options())
        messages += more
    return options, messages


def _still_forbidden(options: Options, base: Options) -> tuple[Options, list[str]]:
    """options of a workspace with all that is switched off in base; and a message for each that it would switch on."""
    context, disable = options.context, options.disable
    pairs = {
        "enable": (base.enable, options.enable),
        "context.openDocuments": (base.context.open_documents, context.open_documents),
        "context.workspace": (base.context.workspace, context.workspace),
    }
    freed = [name for name, (allowed, wanted) in pairs.items() if wanted and not allowed]
    languages = dict(options.languages)
    for language in {*base.languages, *languages}:
        if not for_language(base, language).enable:
            given = languages.get(language)
            languages[language] = {**(cast(dict[str, Any], given) if isinstance(given, dict) else {}), "enable": False}
    kept = replace(
        options,
        enable=options.enable and base.enable,
        context=replace(
            context,
            open_documents=context.open_documents and base.context.open_documents,
            workspace=context.workspace and base.context.workspace,
        ),
        disable=replace(
            disable,
            languages=tuple(dict.fromkeys((*base.disable.languages, *disable.languages))),
            paths=tuple(dict.fromkeys((*base.disable.paths, *disable.paths))),
        ),
        languages=languages,
    )
    messages = [f"lacuna.{name} is off in your own settings, and a workspace cannot switch it on." for name in freed]
    return kept, messages


def _override(options: Options, language: str, given: object) -> tuple[Options, list[str]]:
    allowed = {row.name for row in LANGUAGE_ROWS}
    if not isinstance(given, Mapping):
        return options, [f"lacuna.languages.{language} is not an object; it was left out."]
    kept: dict[str, Any] = {}
    messages: list[str] = []
    for name, item in _flat(cast(Mapping[str, Any], given)):
        if name in allowed:
            kept[name] = item
        else:
            messages.append(f"lacuna.languages.{language}.{name} cannot be set by language; it was left out.")
    changed, more = parse(Options, kept, scopes=frozenset({"resource"}), base=replace(options, languages={}))
    return replace(changed, languages=options.languages), messages + more


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, item in tree.items():
        if isinstance(item, Mapping) and item:
            found += _flat(cast(Mapping[str, Any], item), f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", cast(object, item)))
    return found


def for_language(options: Options, language: str) -> Options:
    """The options that hold in a document of this language."""
    given = options.languages.get(language)
    if given is None:
        return options
    return _override(options, language, given)[0]


def markdown_table() -> str:
    """README's table."""
    lines = ["| option | type | default | values | meaning |", "|---|---|---|---|---|"]
    for row in ROWS:
        default = json.dumps(row.json_default)
        notes = [] if row.setting.scope == "resource" else ["user settings only"]
        notes += ["also by language"] if row.setting.by_language else []
        text = row.setting.description.replace("|", "\\|") + (f" *({', '.join(notes)})*" if notes else "")
        values = row.range_text.replace("|", "\\|")
        lines.append(f"| `lacuna.{row.name}` | {row.kind} | `{default}` | {values} | {text} |")
    return "\n".join(lines) + "\n"


def vscode_configuration() -> dict[str, Any]:
    """The `contributes.configuration` object of the VS Code extension."""
    kinds = {"bool": "boolean", "int": "integer", "float": "number", "str": "string", "list": "array", "dict": "object"}
    properties: dict[str, Any] = {}
    for row in ROWS:
        default = row.json_default
        scope = "language-overridable" if row.setting.by_language else "resource"
        entry: dict[str, Any] = {
            "type": kinds[row.kind],
            "default": default,
            "markdownDescription": row.setting.description,
            "scope": "machine" if row.setting.scope == "user" else scope,
        }
        if row.kind == "list":
            entry["items"] = {"type": "string"}
        if row.setting.choices:
            entry["enum"] = list(row.setting.choices)
        if row.setting.minimum is not None:
            entry["minimum"] = row.setting.minimum
        if row.setting.maximum is not None:
            entry["maximum"] = row.setting.maximum
        properties[f"lacuna.{row.name}"] = entry
    return {"title": "Lacuna", "properties": properties}


def default_tree() -> dict[str, Any]:
    """All defaults as a nested object with wire names: what an editor may send."""
    tree: dict[str, Any] = {}
    for row in ROWS:
        *path, leaf = row.name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = row.json_default
    return tree

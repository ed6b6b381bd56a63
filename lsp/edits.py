"""Edits of a document as LSP sends them: versioned, annotated, undone in one step; and as a diff for people.

Knows documents and what a client can do with an edit; not why the text changes.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from lsprotocol import types

from .documents import Document

ANNOTATION = "lacuna"


@dataclass(frozen=True, slots=True)
class Replacement:
    """[start, end) of a document's text becomes text. Offsets are code points."""

    start: int
    end: int
    text: str


def apply(text: str, replacements: Sequence[Replacement]) -> str:
    """text with all replacements, which do not overlap, applied together."""
    for each in sorted(replacements, key=lambda each: each.start, reverse=True):
        text = text[: each.start] + each.text + text[each.end :]
    return text


def unified_diff(path: str, before: str, after: str) -> str:
    """What changes, for people. Lines without an end are marked as diff(1) does."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{path}", f"b/{path}"
    )
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def can_version(capabilities: types.ClientCapabilities) -> bool:
    """Whether the client takes documentChanges. One that can create files can, whatever it says (Neovim)."""
    edits = capabilities.workspace.workspace_edit if capabilities.workspace else None
    return edits is not None and bool(edits.document_changes or edits.resource_operations)


def workspace_edit(
    document: Document, replacements: Sequence[Replacement], label: str, capabilities: types.ClientCapabilities
) -> types.WorkspaceEdit:
    """One edit of one document, as rich as the client can take it."""
    edits = [
        types.TextEdit(document.range_of(each.start, each.end), each.text)
        for each in sorted(replacements, key=lambda each: each.start)
    ]
    if not can_version(capabilities):
        return types.WorkspaceEdit(changes={document.uri: edits})
    workspace = capabilities.workspace.workspace_edit if capabilities.workspace else None
    versioned = types.OptionalVersionedTextDocumentIdentifier(document.uri, document.version)
    if workspace is None or workspace.change_annotation_support is None:
        return types.WorkspaceEdit(document_changes=[types.TextDocumentEdit(versioned, edits)])
    annotated = [types.AnnotatedTextEdit(ANNOTATION, each.range, each.new_text) for each in edits]
    return types.WorkspaceEdit(
        document_changes=[types.TextDocumentEdit(versioned, annotated)],
        change_annotations={ANNOTATION: types.ChangeAnnotation(label, needs_confirmation=False)},
    )

"""A deterministic language server that speaks what `lacuna serve` speaks, for tests of the two editors.

It answers from a fixed table, so that a test can say every byte. It is written straight on JSON-RPC, without pygls: a
test of an editor must be able to make it slow, silent, wrong or dead at will. Every message that arrives is appended to
the file named by FAKE_LOG as one JSON line with its time.

The text itself steers it. A line that begins like an entry of COMPLETIONS is completed to it; a line with `slow` is
answered after FAKE_SLOW_MS (300), cancellable; with `null` it is answered null, with `boom` by an error, with `die` the
process exits at once. `...` and `pass` are holes. An edit of a text with `late` is answered when the text has changed.
FAKE_INIT_MS delays the answer to `initialize`, FAKE_STATUS_MS the one to `lacuna/status`. With FAKE_PULL it asks for
the settings as the real one does, once for all and once for each folder, and logs what it is given.
"""

import difflib
import json
import os
import re
import sys
import threading
import time
from pathlib import Path

COMPLETIONS = (
    "def multi(a, b):\n    x = a\n    return x + b",
    "value = compute(alpha, beta)",
    "slow = compute(later)",
    "emoji = '\U0001f600\U0001f680' + name",
    "pick = one",
    "pick = two(2)",
    "pick = three",
    "int multi(int a, int b) {\n    return a + b;\n}",
    "total = count(names) + 1",
    "table = make({",
)
CLOSING = {"table = make({": "})"}
"""What closes the brackets that a completion ends with."""
MIN_TYPED = 3
FILL = "return 42"
LOG = Path(os.environ["FAKE_LOG"]) if "FAKE_LOG" in os.environ else None
INIT_S = float(os.environ.get("FAKE_INIT_MS", "0")) / 1000
STATUS_S = float(os.environ.get("FAKE_STATUS_MS", "0")) / 1000
SLOW_S = float(os.environ.get("FAKE_SLOW_MS", "300")) / 1000

documents: dict[str, tuple[int, str]] = {}
cancelled: set = set()
wire = threading.Lock()
state = {"kind": "normal", "message": "", "model": "fake", "device": "cpu", "lastLatencyMs": 1.0, "isPaused": False}


def note(**fields):
    if LOG:
        with wire, LOG.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"t": time.time(), **fields}) + "\n")


def send(message):
    body = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False).encode()
    with wire:
        sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        sys.stdout.buffer.flush()


def read():
    length = None
    while line := sys.stdin.buffer.readline():
        if line == b"\r\n":
            return json.loads(sys.stdin.buffer.read(length))
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return None


def pull(folders):
    if "FAKE_PULL" in os.environ:
        items = [{"section": "lacuna"}, *({"scopeUri": folder["uri"], "section": "lacuna"} for folder in folders)]
        send({"id": "pull", "method": "workspace/configuration", "params": {"items": items}})


def units(text):
    """UTF-16 code units, the position encoding of this server."""
    return len(text.encode("utf-16-le")) // 2


def at_unit(line, character):
    return line.encode("utf-16-le")[: 2 * character].decode("utf-16-le", "ignore")


def position(line, text):
    return {"line": line, "character": units(text)}


def span(line, text):
    return {"start": position(line, ""), "end": position(line, text)}


def complete(uri, where):
    lines = documents[uri][1].split("\n")
    row = where["line"]
    before = at_unit(lines[row], where["character"])
    found = []
    for full in COMPLETIONS:
        # the entry may have begun some lines above: typed along, or accepted piece by piece
        height = full.count("\n")
        for up in range(min(row, height) + 1):
            typed = "\n".join([*lines[row - up : row], before])
            if len(typed) >= MIN_TYPED and full.startswith(typed) and len(typed) < len(full):
                found.append((full[len(typed) :], CLOSING.get(full)))
    items = []
    # a bracket that the editor has closed is taken into what replaces it
    after = lines[row][len(before) :]
    for index, (text, closing) in enumerate(found):
        is_closed = after == ")" and after in text
        end = {**where, "character": where["character"] + 1} if is_closed else where
        arguments = [f"p{index}:{text[:20]}", *([closing] if closing else [])]
        items.append(
            {
                "insertText": text,
                "range": {"start": where, "end": end},
                "command": {"title": "accepted", "command": "lacuna.accept", "arguments": arguments},
            }
        )
    return items


def holes(uri):
    for row, line in enumerate(documents[uri][1].split("\n")):
        if re.fullmatch(r"\s*(\.\.\.|pass)", line):
            yield row, line


def action(title, kind, uri, name, **data):
    return {"title": title, "kind": kind, "data": {"uri": uri, "action": name, **data}}


def actions(params):
    uri, only = params["textDocument"]["uri"], params["context"].get("only") or [""]
    start, end = params["range"]["start"], params["range"]["end"]
    offered = []
    rows = [row for row, _ in holes(uri)]
    if start["line"] in rows:
        kind = "refactor.rewrite.lacuna.fillHole"
        offered.append(action("Fill this hole", kind, uri, "fillHole", row=start["line"]))
    if rows:
        offered.append(action("Fill all holes", "refactor.rewrite.lacuna.fillAllHoles", uri, "fillAllHoles"))
    if start != end:
        kind = "refactor.rewrite.lacuna.rewrite"
        offered.append(action("Rewrite selection", kind, uri, "rewrite", range=params["range"]))
    if any("def (" in line for line in documents[uri][1].split("\n")):
        offered.append(action("Repair", "quickfix.lacuna.repair", uri, "repair"))
    return [one for one in offered if any(one["kind"].startswith(kind) for kind in only)]


def edits_of(data, instruction):
    uri = data["uri"]
    lines = documents[uri][1].split("\n")
    if data["action"] in ("fillHole", "fillAllHoles"):
        return [
            {"range": span(row, line), "newText": line[: len(line) - len(line.lstrip())] + FILL}
            for row, line in holes(uri)
            if data.get("row", row) == row
        ]
    if data["action"] == "repair":
        return [
            {"range": span(row, line), "newText": line.replace("def (", "def repaired(")}
            for row, line in enumerate(lines)
            if "def (" in line
        ]
    start, end = data["range"]["start"], data["range"]["end"]
    first, last = lines[start["line"]], lines[end["line"]]
    if start["line"] == end["line"]:
        old = at_unit(first, end["character"])[len(at_unit(first, start["character"])) :]
    else:
        old = "\n".join(
            [
                first[len(at_unit(first, start["character"])) :],
                *lines[start["line"] + 1 : end["line"]],
                at_unit(last, end["character"]),
            ]
        )
    new = old.upper() if instruction is None else f"{old}  # {instruction}"
    return [{"range": data["range"], "newText": new}] if new != old else []


def workspace_edit(uri, edits):
    version = documents[uri][0]
    return {"documentChanges": [{"textDocument": {"uri": uri, "version": version}, "edits": edits}]}


def preview(params):
    data = params["action"]["data"]
    edits = edits_of(data, params.get("instruction"))
    if not edits:
        return None
    old = documents[data["uri"]][1].split("\n")
    new = list(old)
    for edit in sorted(edits, key=lambda one: one["range"]["start"]["line"], reverse=True):
        start, end = edit["range"]["start"], edit["range"]["end"]
        head, tail = at_unit(new[start["line"]], start["character"]), new[end["line"]]
        tail = tail[len(at_unit(tail, end["character"])) :]
        new[start["line"] : end["line"] + 1] = (head + edit["newText"] + tail).split("\n")
    diff = "\n".join(difflib.unified_diff(old, new, "before", "after", lineterm=""))
    return {"edit": workspace_edit(data["uri"], edits), "diff": diff}


def next_edits(params):
    """`new_name` stands in the document: every `old_name` has to follow, in whatever document is open."""
    asked = params["textDocument"]["uri"]
    if "new_name" not in documents[asked][1]:
        return {"edits": []}
    edits = []
    for uri in sorted(documents, key=lambda each: each != asked):
        version, text = documents[uri]
        for row, line in enumerate(text.split("\n")):
            for match in re.finditer("old_name", line):
                where = {"start": position(row, line[: match.start()]), "end": position(row, line[: match.end()])}
                document = {"uri": uri, "version": version}
                edits.append({"textDocument": document, "range": where, "text": "new_name", "confidence": 0.9})
    return {"edits": edits}


def wait_for_change(uri):
    """In a text that says so: the edit just made is for a text that is no more when it arrives."""
    before = documents[uri]
    end = time.monotonic() + 60
    while "late" in before[1] and documents[uri] == before and time.monotonic() < end:
        time.sleep(0.002)


def answer(ident, method, params):
    if method == "textDocument/inlineCompletion":
        uri, where = params["textDocument"]["uri"], params["position"]
        line = documents[uri][1].split("\n")[where["line"]]
        if "die" in line:
            os._exit(3)
        if "boom" in line:
            send({"id": ident, "error": {"code": -32603, "message": "boom"}})
            return
        if "slow" in line:
            until = time.monotonic() + SLOW_S
            while time.monotonic() < until:
                if ident in cancelled:
                    note(event="cancelled", id=ident)
                    send({"id": ident, "error": {"code": -32800, "message": "cancelled"}})
                    return
                time.sleep(0.002)
        result = None if "null" in line or state["isPaused"] else {"items": complete(uri, where)}
        if ident in cancelled:
            result = None
    elif method == "textDocument/codeAction":
        result = actions(params)
    elif method == "codeAction/resolve":
        result = {**params, "edit": workspace_edit(params["data"]["uri"], edits_of(params["data"], None))}
    elif method == "lacuna/previewEdit":
        result = preview(params)
        wait_for_change(params["action"]["data"]["uri"])
    elif method == "lacuna/nextEdit":
        result = next_edits(params)
        wait_for_change(params["textDocument"]["uri"])
    elif method in ("lacuna/pause", "lacuna/resume", "lacuna/unload", "lacuna/status"):
        if method == "lacuna/pause":
            state.update(kind="inactive", message="paused", isPaused=True)
        elif method == "lacuna/resume":
            state.update(kind="normal", message="", isPaused=False)
        elif method == "lacuna/unload":
            state.update(kind="inactive", message="unloaded")
        elif method == "lacuna/status":
            time.sleep(STATUS_S)
        result = dict(state)
    elif method == "lacuna/metrics":
        result = {"numRequests": 1, "numShown": 1, "numAccepted": 0}
    else:
        result = None
    send({"id": ident, "result": result})
    note(event="answer", method=method, id=ident, result=result)


CAPABILITIES = {
    "positionEncoding": "utf-16",
    "textDocumentSync": {"openClose": True, "change": 1},
    "inlineCompletionProvider": {},
    "codeActionProvider": {"codeActionKinds": ["refactor.rewrite", "quickfix"], "resolveProvider": True},
    "executeCommandProvider": {"commands": ["lacuna.accept"]},
    "workspace": {"workspaceFolders": {"supported": True, "changeNotifications": True}},
}


def main():
    note(event="start", pid=os.getpid(), argv=sys.argv[1:])
    folders: list = []
    while message := read():
        method, ident, params = message.get("method"), message.get("id"), message.get("params") or {}
        note(event="message", method=method, id=ident, params=params)
        if method is None:
            note(event="pulled", result=message.get("result"))
        elif method == "initialize":
            folders = params.get("workspaceFolders") or []
            time.sleep(INIT_S)
            send({"id": ident, "result": {"capabilities": CAPABILITIES, "serverInfo": {"name": "lacuna"}}})
        elif method == "initialized":
            send({"method": "$/lacuna/status", "params": state})
            pull(folders)
        elif method == "textDocument/didOpen":
            opened = params["textDocument"]
            documents[opened["uri"]] = opened["version"], opened["text"]
        elif method == "textDocument/didChange":
            changed = params["textDocument"]
            documents[changed["uri"]] = changed["version"], params["contentChanges"][-1]["text"]
        elif method == "textDocument/didClose":
            documents.pop(params["textDocument"]["uri"], None)
        elif method == "workspace/didChangeConfiguration":
            pull(folders)
            settings = params.get("settings") or {}
            if isinstance(settings.get("lacuna"), dict) and "oops" in settings["lacuna"]:
                text = "lacuna.oops is not an option; it was left out."
                send({"method": "window/showMessage", "params": {"type": 2, "message": text}})
        elif method == "$/cancelRequest":
            cancelled.add(params["id"])
        elif method == "shutdown":
            send({"id": ident, "result": None})
        elif method == "exit":
            note(event="exit")
            return
        elif ident is not None:
            threading.Thread(target=answer, args=(ident, method, params), daemon=True).start()
    note(event="eof")


if __name__ == "__main__":
    main()

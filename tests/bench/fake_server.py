"""A language server for the benchmark's own tests: an oracle that is told the answers, and misbehaves when asked to.

ORACLE names a JSON file of texts. A document that has lost a span of one of them gets that span back (the shortest one,
where it may be of several), when the cursor stands where it was. Words in the command line change it: `half` answers
every second request with [], `list` answers an InlineCompletionList, `slow` waits 50 ms, `die` exits at the third
request, `mute` never answers a request, `garbage` writes what is no LSP, `error` answers errors, `refuse` refuses
initialize, `chatty` asks the client back and logs as Lacuna does, `hang` ignores shutdown and exit, `overlay` replaces
the rest of the line, `never` proposes nothing.
"""

import json
import os
import sys
import time
from pathlib import Path

WORDS = set(sys.argv[1:])
TEXTS = json.loads(Path(os.environ["ORACLE"]).read_text(encoding="utf-8")) if "ORACLE" in os.environ else []
STAGES = "(layout 19, prefill 18, denoise 0, verify 13, trim 4 of 57 ms)"
documents = {}
num_requests = 0


def send(message):
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
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


def offset(text, position):
    lines = text.split("\n")
    row = position["line"]
    units = lines[row].encode("utf-16-le")[: 2 * position["character"]]
    return sum(len(line) + 1 for line in lines[:row]) + len(units.decode("utf-16-le"))


def change(uri, event):
    if "range" not in event:
        documents[uri] = event["text"]
        return
    text = documents[uri]
    start, end = (offset(text, event["range"][name]) for name in ("start", "end"))
    documents[uri] = text[:start] + event["text"] + text[end:]


def missing(text, cursor):
    found = []
    for whole in TEXTS:
        middle = len(whole) - len(text)
        if middle > 0 and whole[:cursor] == text[:cursor] and whole[cursor + middle :] == text[cursor:]:
            found.append(whole[cursor : cursor + middle])
    return min(found, key=len, default=None)


def complete(params):
    uri, position = params["textDocument"]["uri"], params["position"]
    text = documents[uri]
    if uri.endswith("warm_up.py"):
        found = "second"
    else:
        found = missing(text, offset(text, position))
    if found is None or "never" in WORDS or ("half" in WORDS and num_requests % 2):
        if "chatty" in WORDS:
            log(uri, position, f"declined: low-confidence, 235+0 tokens, 3 forwards {STAGES}")
        return []
    span = {"start": position, "end": position}
    if "overlay" in WORDS:
        rest = text[offset(text, position) :].split("\n")[0]
        span = {"start": position, "end": {**position, "character": position["character"] + len(rest)}}
        found += rest
    if "chatty" in WORDS:
        log(uri, position, f"model {len(found)} chars, confidence 0.75, 6 steps, 100+3 tokens, 4 forwards {STAGES}")
    items = [{"insertText": found, "range": span}, {"insertText": found + "x", "range": span}]
    return {"items": items} if "list" in WORDS else items


def log(uri, position, what):
    name, line, column = uri.rsplit("/", 1)[-1], position["line"] + 1, position["character"] + 1
    sys.stderr.write(f"2026-01-01 INFO lacuna_ls.lsp.completion: infill {name}:{line}:{column} v3 {what}, 1.5 ms\n")
    sys.stderr.flush()


def main():
    global num_requests
    while message := read():
        method, ident, params = message.get("method"), message.get("id"), message.get("params") or {}
        if method == "initialize":
            if "refuse" in WORDS:
                send({"id": ident, "error": {"code": -32603, "message": "not today"}})
                continue
            sync = {"openClose": True, "change": 1 if "full" in WORDS else 2}
            capabilities = {"textDocumentSync": sync, "inlineCompletionProvider": {}}
            send({"id": ident, "result": {"capabilities": capabilities, "serverInfo": {"name": "oracle"}}})
        elif method == "initialized" and "chatty" in WORDS:
            send({"id": 1, "method": "workspace/configuration", "params": {"items": [{"section": "lacuna"}]}})
            send({"id": 2, "method": "window/unheardOf", "params": {}})
            send({"method": "window/logMessage", "params": {"type": 3, "message": "hello"}})
            send({"method": "$/lacuna/status", "params": {"kind": "normal", "message": "ready"}})
            sys.stderr.write("2026-01-01 INFO lacuna_ls.infill.index: 12 files of the workspace have been read.\n")
            sys.stderr.flush()
        elif method == "textDocument/didOpen":
            documents[params["textDocument"]["uri"]] = params["textDocument"]["text"]
        elif method == "textDocument/didChange":
            for event in params["contentChanges"]:
                change(params["textDocument"]["uri"], event)
        elif method == "textDocument/didClose":
            del documents[params["textDocument"]["uri"]]
        elif method == "textDocument/inlineCompletion":
            num_requests += 1
            if "mute" in WORDS:
                continue
            if "garbage" in WORDS:
                sys.stdout.buffer.write(b"hello world\r\n\r\n")
                sys.stdout.buffer.flush()
                continue
            if "die" in WORDS and num_requests == 3:
                sys.stderr.write("it all went dark\n")
                sys.stderr.flush()
                os._exit(3)
            if "slow" in WORDS:
                time.sleep(0.05)
            if "odd" in WORDS:
                # nothing of this is what the protocol says
                send({"method": "window/logMessage", "params": ["hello"]})
                send({"id": 7, "method": "workspace/configuration", "params": {"items": ["lacuna"]}})
                send({"id": ident, "error": "boom"})
            elif "error" in WORDS:
                send({"id": ident, "error": {"code": -32603, "message": "boom"}})
            else:
                send({"id": ident, "result": complete(params)})
        elif method == "shutdown":
            if "hang" not in WORDS:
                send({"id": ident, "result": None})
        elif method == "exit":
            if "hang" not in WORDS:
                return
        elif ident is not None and method is not None:
            send({"id": ident, "error": {"code": -32601, "message": "no such method"}})
    while "hang" in WORDS:
        time.sleep(1)


main()

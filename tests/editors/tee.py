"""Stands between an editor and its language server, copies both ways, and notes when requests for ghost text pass.

    python -S -E tee.py LOG COMMAND ...

LOG gets one JSON line for each such request and for each answer to any: its time on the system's monotonic clock, in
seconds; "in" or "out"; its id; whether an answer holds anything. A server cannot tell these times itself: a request
that waits for its event loop has arrived, though the server does not know of it yet. Bytes are passed on before they
are looked at.
"""

import json
import os
import subprocess
import sys
import threading
import time

METHOD = b'"textDocument/inlineCompletion"'
CHUNK = 1 << 16


def bodies(buffer):
    """Takes whole frames off the front of buffer, a bytearray."""
    while (head := buffer.find(b"\r\n\r\n")) >= 0:
        fields = dict(line.split(b":", 1) for line in bytes(buffer[:head]).lower().split(b"\r\n") if b":" in line)
        end = head + 4 + int(fields[b"content-length"])
        if len(buffer) < end:
            return
        body = bytes(buffer[head + 4 : end])
        del buffer[:end]
        yield body


def send(target, data):
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def copy(source, target, look):
    """Until source ends or target is gone; look(when, body) sees each whole message, after it was passed on."""
    buffer = bytearray()
    try:
        while data := os.read(source, CHUNK):
            now = time.monotonic()
            send(target, data)
            buffer += data
            for body in bodies(buffer):
                look(now, body)
    except OSError:
        # the reader is gone; what is left to say has nobody to hear it
        pass
    os.close(target)


def main():
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    server = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def note(*row):
        os.write(log, (json.dumps(row) + "\n").encode())

    def asked(now, body):
        if METHOD in body:
            note(now, "in", json.loads(body).get("id"), None)

    # of every request, because the look at a request comes after it was passed on, and may come after the answer
    def answered(now, body):
        message = json.loads(body)
        if "method" not in message:
            result = message.get("result")
            items = result.get("items") if isinstance(result, dict) else result
            note(now, "out", message.get("id"), bool(items))

    up = threading.Thread(target=copy, args=(0, server.stdin.fileno(), asked), daemon=True)
    down = threading.Thread(target=copy, args=(server.stdout.fileno(), 1, answered))
    up.start()
    down.start()
    # the reading of stdin cannot be interrupted: when the server has ended, so does this
    down.join()
    sys.stderr.flush()
    os._exit(server.wait())


if __name__ == "__main__":
    main()

"""A language server around transformers' own `generate`: the same checkpoint and prompt, none of Lacuna's engine.

A baseline for `lacuna bench --server "transformers=python tests/support/transformers_server.py [MODEL]"`. It builds the
prompt as Lacuna does (the model was trained on it, without neighbouring files), lets transformers denoise one free
canvas of 32 rows with its default sampler settings, cuts at the end token and proposes what is left, unjudged: no
candidate lengths, no drafts, no verification, no trimming, no gate, no KV cache between requests.

Knows as much of LSP as the benchmark uses. MODEL: a folder that transformers loads, or a packed file; default: the
model that comes with Lacuna. `--rows N` and `--steps N` change the canvas and the denoise steps.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

# the wire is ours alone: what a library prints goes to stderr
wire = os.fdopen(os.dup(1), "wb", buffering=0)
os.dup2(2, 1)

documents = {}


def send(message):
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    wire.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)


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
    return sum(len(line) + 1 for line in lines[:row]) + len(units.decode("utf-16-le", "ignore"))


class Model:
    """transformers' class on the checkpoint, loaded at the first request."""

    def __init__(self, source, rows, steps):
        self.source, self.rows, self.steps = source, rows, steps
        self.truth = self.tokenizer = None

    def load(self):
        import torch
        import transformers
        from lacuna_ls.engine.checkpoint import load_checkpoint, save_folder
        from lacuna_ls.engine.modelfile import read_tokenizer
        from lacuna_ls.infill.tokenizer import Tokenizer

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.tokenizer = Tokenizer.from_json(read_tokenizer(self.source))
        with tempfile.TemporaryDirectory() as folder:
            source = self.source
            if not source.is_dir():
                save_folder(load_checkpoint(source, weights="fp32"), Path(folder))
                source = Path(folder)
            self.truth = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(
                source, dtype=torch.float32, local_files_only=True, experts_implementation="eager"
            ).eval()
        # generate() takes the size of its canvas from the model's configuration
        self.truth.config.canvas_length = self.rows

    def fill(self, prefix, suffix):
        import torch
        from lacuna_ls.infill.layout import build_prompt

        if self.truth is None:
            self.load()
        prompt = torch.tensor([build_prompt(self.tokenizer, prefix, suffix).tokens])
        torch.manual_seed(0)
        with torch.no_grad():
            answer = self.truth.generate(
                input_ids=prompt,
                max_new_tokens=self.rows,
                max_denoising_steps=self.steps,
                eos_token_id=self.tokenizer.eos,
                pad_token_id=self.tokenizer.eos,
            )
        ids = getattr(answer, "sequences", answer)[0, prompt.shape[1] :].tolist()
        if self.tokenizer.eos in ids:
            ids = ids[: ids.index(self.tokenizer.eos)]
        return self.tokenizer.decode(ids)


def complete(model, params):
    position = params["position"]
    text = documents[params["textDocument"]["uri"]]
    cursor = offset(text, position)
    proposal = model.fill(text[:cursor], text[cursor:])
    return [{"insertText": proposal, "range": {"start": position, "end": position}}] if proposal.strip() else []


def main():
    from lacuna_ls.engine.modelfile import EMBEDDED

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, default=EMBEDDED)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=48)
    options = parser.parse_args()
    model = Model(options.model, options.rows, options.steps)
    while message := read():
        method, ident, params = message.get("method"), message.get("id"), message.get("params") or {}
        if method == "initialize":
            capabilities = {"textDocumentSync": {"openClose": True, "change": 1}, "inlineCompletionProvider": {}}
            send({"id": ident, "result": {"capabilities": capabilities, "serverInfo": {"name": "transformers"}}})
        elif method == "textDocument/didOpen":
            documents[params["textDocument"]["uri"]] = params["textDocument"]["text"]
        elif method == "textDocument/didChange":
            documents[params["textDocument"]["uri"]] = params["contentChanges"][-1]["text"]
        elif method == "textDocument/didClose":
            documents.pop(params["textDocument"]["uri"], None)
        elif method == "textDocument/inlineCompletion":
            send({"id": ident, "result": complete(model, params)})
        elif method == "exit":
            return
        elif ident is not None and method is not None:
            send({"id": ident, "result": None})


if __name__ == "__main__":
    main()

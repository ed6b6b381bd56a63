"""The embedded model's tokenizer: byte-level BPE trained on the corpus, saved as one `tokenizer.json`.

Decides how text is split before merges are learned; knows nothing of prompts, holes or models. Any text whatever comes
back exactly from `decode(encode(text))`: there is no unknown token, all 256 bytes are in the vocabulary.

Pre-tokens, in this order, so that holes cut at line edges have ONE tokenization:

* a newline is always a token of its own, never merged with indentation or with anything else;
* a run of two or more spaces is a piece of its own (so common indents become single tokens, and the word after an
  indentation never carries a space; an indentation of ONE space, as in some prose, is the exception), and of tabs;
* digits singly; words (letters, with the underscores before them: `add|_node`) with at most one leading space;
* up to three punctuation characters with at most one leading space; anything else by the character.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS: tuple[str, ...] = (
    "<pad>", "<eos>", "<bos>", "<suf>", "<pre>", "<mid>", "<ctx>", "<file>", *(f"<reserved{i}>" for i in range(8, 16)),
)  # fmt: skip
VOCAB_SIZE = 4096

# one alternative per pre-token; every character is matched by some alternative (the last one takes any)
_PIECE = (
    r"\n"
    r"| {2,32}|\t+"
    r"|\d"
    r"| ?_*[^\W\d_]+| ?_+"
    r"| ?[^\w\s]{1,3}"
    r"|[\s\S]"
)


def new_tokenizer() -> Tokenizer:
    """An untrained tokenizer with this module's pre-tokenization and no special tokens yet."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE, *, show_progress: bool = False) -> Tokenizer:
    """Train the BPE on `texts`; ids 0 to 15 are `SPECIAL_TOKENS`, then the bytes, then the merges.

    Raises:
        ValueError: `vocab_size` has no room for the specials and the 256 bytes.
    """
    from tokenizers import pre_tokenizers, trainers

    if vocab_size < len(SPECIAL_TOKENS) + 256:
        raise ValueError(f"vocab_size {vocab_size}: specials and bytes alone need {len(SPECIAL_TOKENS) + 256}")
    tokenizer = new_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # text that spells a special token is ordinary text: only layouts place specials, by id
    tokenizer.encode_special_tokens = True
    return tokenizer


def sample_texts(folder: Path, sample_bytes: int) -> Iterator[str]:
    """Texts of the training split, drawn by weight without repetition, up to `sample_bytes`."""
    import numpy as np

    from .corpus import Corpus

    corpus = Corpus(folder)
    # exponential keys: sampling without replacement by weight in one sort
    keys = np.random.default_rng(0).exponential(size=len(corpus)) / corpus.sample_weights
    taken = 0
    for i in np.argsort(keys):
        if taken >= sample_bytes:
            return
        data = corpus.data(int(i))
        taken += len(data)
        yield data.decode()


def bytes_per_token(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """UTF-8 bytes per token over `texts`: the compression that context lengths are paid in."""
    num_bytes = num_tokens = 0
    for text in texts:
        num_bytes += len(text.encode())
        num_tokens += len(tokenizer.encode(text, add_special_tokens=False).ids)
    return num_bytes / max(1, num_tokens)


def main(arguments: list[str] | None = None) -> None:
    """Command: train on a sample of the corpus, save, and report bytes per token on held-out files on stderr."""
    from .corpus import Corpus

    parser = argparse.ArgumentParser(prog="python -m lacuna_ls.training.tokenizer", description="Train the tokenizer.")
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by lacuna_ls.training.corpus")
    parser.add_argument("--out", type=Path, required=True, help="the tokenizer.json to write")
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE)
    parser.add_argument("--sample-mb", type=float, default=60.0, help="megabytes of training text to learn merges from")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    texts = sample_texts(options.corpus, int(options.sample_mb * 1e6))
    tokenizer = train_tokenizer(texts, options.vocab_size, show_progress=sys.stderr.isatty())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(options.out))
    held = Corpus(options.corpus, "holdout")
    ratio = bytes_per_token(tokenizer, (held.text(i) for i in range(min(len(held), 400))))
    report = {"vocab_size": tokenizer.get_vocab_size(), "holdout_bytes_per_token": round(ratio, 3)}
    sys.stderr.write(f"{json.dumps({**report, 'seconds': round(time.monotonic() - begin)})}\n")


if __name__ == "__main__":
    from .command import guarded

    raise SystemExit(guarded(main))

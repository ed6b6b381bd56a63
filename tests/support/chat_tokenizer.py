"""A small tokenizer with the turns of a published DiffusionGemma: bytes, a few merges, newlines as own tokens."""

from __future__ import annotations

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

SPECIAL = [
    "<pad>", "<eos>", "<bos>", "<|tool_response>", "<|channel>", "<channel|>", "<|turn>", "<turn|>",
]  # fmt: skip

TEXT = "def read(path):\n    with open(path) as stream:\n        return stream.read()\n\n\nuser model thought\n```"


def chat_backend() -> tokenizers.Tokenizer:
    """Deterministic. Newline runs are added tokens that are not special, as in Gemma's."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([TEXT], trainer)
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("\n", "\n\n", "```")])
    return backend

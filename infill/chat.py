"""The second layout: an instruct model is asked, in the turns it was trained on, for the code that is missing.

Two ways to say it. With the model's own tokenizer (`ChatTokenizer`) the turns are token ids, thinking is closed before
it begins, and the answer's code block is opened up to the cursor, so that the model can only go on. Without one
(`CharTokenizer`) the server makes the turns: tokens are code points here, and the answer repeats the unfinished line.
What changes while the user types stands as far back as it can, as in layout.py. Knows no model and no network.
Source: chat_template.jinja of google/diffusiongemma-26B-A4B-it. Its sliding layers see the last 1023 cached tokens: the
windows of CHAT_LIMITS leave the beginning of the suffix in sight.
"""

from __future__ import annotations

import functools

import tokenizers

from .layout import Limits, Prompt, build_prompt, prefix_tokens, suffix_tokens
from .tokenizer import Tokenizer

CHAT_LIMITS = Limits(num_prefix=576, num_suffix=192, num_neighbour=128)
CHAR_LIMITS = Limits(num_prefix=2304, num_suffix=768, num_neighbour=512)
"""The same in characters."""

MAX_HEAD_CHARS = 240
"""A longer unfinished line is not repeated."""

FENCE = "```"

_ASKED = (
    "One place in a source file is empty. Write what is missing there, nothing else.\n\n"
    f"After the gap:\n{FENCE}\n"
)
_ASKED_ANEW = (
    "One part of a source file is to be written anew. Write what is to stand there instead, nothing else.\n\n"
    f"After that part:\n{FENCE}\n"
)
_OLD = f"\n{FENCE}\n\nThe part as it is now; a comment right above it may say what to change:\n{FENCE}\n"
_BEFORE = f"Before the gap:\n{FENCE}\n"
_GOES_ON = (
    "Reply with one code block. It goes on exactly where the text before the gap ends, in the same indentation, ends "
    "where the text after the gap begins, and repeats neither."
)
_REPEATS = (
    "Reply with one code block. It begins with the unfinished last line before the gap, just as it stands, completes "
    "it, and ends where the text after the gap begins."
)


class ChatTokenizer(Tokenizer):
    """The tokenizer of a published DiffusionGemma. Text that spells a turn stays text."""

    limits = CHAT_LIMITS

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Raises: ValueError for a vocabulary without turns."""
        # not the base's: this vocabulary has other special tokens at other ids
        backend.encode_special_tokens = True
        self._backend = backend
        self.bos, self.pad = self._id("<bos>"), self._id("<pad>")
        self._begin, self.eos = self._id("<|turn>"), self._id("<turn|>")
        self._channel, self._end_channel = self._id("<|channel>"), self._id("<channel|>")

    @staticmethod
    def is_of(backend: tokenizers.Tokenizer) -> bool:
        """Whether this is the vocabulary of such a model."""
        return backend.token_to_id("<|turn>") is not None

    def _id(self, token: str) -> int:
        found = self._backend.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no {token}")
        return found

    @functools.cached_property
    def newline_ids(self) -> frozenset[int]:
        # this vocabulary has tokens of several newlines; `▁` stands for a space there
        return frozenset(i for text, i in self._backend.get_vocab(with_added_tokens=True).items() if "\n" in text)

    @property
    def ending(self) -> tuple[int, ...]:
        # the code block is closed, then the turn
        return (*self.encode(f"\n{FENCE}"), self.eos)

    @property
    def fill(self) -> int:
        return self.pad

    @property
    def end_ids(self) -> tuple[int, ...]:
        others = (self._backend.token_to_id(token) for token in ("<eos>", "<|tool_response>"))
        return (self.eos, *[i for i in others if i is not None])

    @property
    def banned_ids(self) -> tuple[int, ...]:
        return (*sorted({self.bos, self._begin, self._channel, self._end_channel}), *self.unused_ids)

    def stop_ids(self, is_multiline: bool) -> tuple[int, ...]:
        if not is_multiline:
            return tuple(sorted(self.newline_ids))
        fence = self.encode(FENCE)
        return tuple(fence) if len(fence) == 1 else ()

    def answer(self, ids: list[int] | tuple[int, ...]) -> str:
        text = self.decode(ids)
        return text.removesuffix(FENCE).removesuffix("\n") if text.endswith(FENCE) else text

    def asked(self, question: list[int], head: str) -> tuple[list[int], str]:
        """The whole prompt around a question, and what the answer has to begin with."""
        user = [self.bos, self._begin, *self.encode("user\n"), *question, self.eos, *self.encode("\n")]
        thought = [self._channel, *self.encode("thought\n"), self._end_channel]
        model = [self._begin, *self.encode("model\n"), *thought, *self.encode(f"{FENCE}\n")]
        return [*user, *model, *self.encode(head)], ""

    @property
    def instruction(self) -> str:
        return _GOES_ON


class CharTokenizer(ChatTokenizer):
    """Code points instead of tokens, for a server that takes and gives text."""

    limits = CHAR_LIMITS
    pad = eos = 0x110000

    def __init__(self) -> None:
        # there is no vocabulary, so the base has nothing to hold
        self._backend = tokenizers.Tokenizer(tokenizers.models.BPE())

    @functools.cached_property
    def vocab_size(self) -> int:
        return self.eos + 1

    @functools.cached_property
    def newline_ids(self) -> frozenset[int]:
        return frozenset((ord("\n"),))

    @property
    def end_ids(self) -> tuple[int, ...]:
        return (self.eos,)

    @property
    def banned_ids(self) -> tuple[int, ...]:
        return ()

    def stop_ids(self, is_multiline: bool) -> tuple[int, ...]:
        # the first line of an answer is the mark of its code block
        return ()

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        return "".join(chr(i) for i in ids if i < self.eos)

    def answer(self, ids: list[int] | tuple[int, ...]) -> str:
        text = self.decode(ids)
        _, fence, block = text.partition(FENCE)
        if fence:
            # what is said around the block is not code; its first line names the language
            text = block.partition("\n")[2].partition(f"\n{FENCE}")[0]
        # the prefix has the indentation already
        return text.lstrip("\n").lstrip(" \t").removesuffix("\n")

    def asked(self, question: list[int], head: str) -> tuple[list[int], str]:
        return question, head.lstrip(" \t")

    @property
    def instruction(self) -> str:
        return _REPEATS


def tokenizer_of(text: str) -> Tokenizer:
    """The tokenizer in the contents of a tokenizer.json, of the kind that its special tokens say.

    Raises: Exception of the tokenizers library for a broken file, ValueError for special tokens of neither kind.
    """
    backend = tokenizers.Tokenizer.from_str(text)
    return ChatTokenizer(backend) if ChatTokenizer.is_of(backend) else Tokenizer(backend)


def prompt_of(
    tokenizer: Tokenizer, prefix: str, suffix: str, neighbours: str = "", limits: Limits | None = None, old: str = ""
) -> Prompt:
    """The prompt in the layout that the tokenizer's model knows, for training and serving alike.

    old: what stands in the gap, to be written anew. Only a model that can be told so is shown it.
    """
    if isinstance(tokenizer, ChatTokenizer):
        return build_chat_prompt(tokenizer, prefix, suffix, neighbours, limits, old)
    return build_prompt(tokenizer, prefix, suffix, neighbours, limits)


def build_chat_prompt(
    tokenizer: ChatTokenizer,
    prefix: str,
    suffix: str,
    neighbours: str = "",
    limits: Limits | None = None,
    old: str = "",
) -> Prompt:
    """prefix, suffix: all text before and after the gap; neighbours: text from elsewhere, the most useful first.

    old: what stands in the gap and is to be written anew; it may take as much room as the prefix.
    """
    limits = limits or tokenizer.limits
    head = prefix[prefix.rfind("\n") + 1 :]
    if len(head) > MAX_HEAD_CHARS:
        head = ""
    pre = prefix_tokens(tokenizer, prefix, limits.num_prefix)
    suf = suffix_tokens(tokenizer, suffix, limits.num_suffix)
    ctx = suffix_tokens(tokenizer, neighbours, limits.num_neighbour) if neighbours else []
    elsewhere = [*tokenizer.encode(f"Elsewhere:\n{FENCE}\n"), *ctx, *tokenizer.encode(f"\n{FENCE}\n\n")] if ctx else []
    anew = [*tokenizer.encode(_OLD), *suffix_tokens(tokenizer, old, limits.num_prefix)] if old else []
    question = [
        *tokenizer.encode(_ASKED_ANEW if old else _ASKED),
        *suf,
        *anew,
        *tokenizer.encode(f"\n{FENCE}\n\n"),
        *elsewhere,
        *tokenizer.encode(_BEFORE),
        *pre,
        *tokenizer.encode(f"\n{FENCE}\n\n{tokenizer.instruction}"),
    ]
    tokens, typed = tokenizer.asked(question, head)
    return Prompt(tuple(tokens), len(pre), len(suf), len(ctx), typed=typed)

"""Pose a gap to the model: the windows around it in canonical form, the prompt, and the canvases.

The step between what the trigger decided and what the engine is asked. Text is normalised to `\\n` here and only here;
what is far from the gap is left out before anything is copied, so that file length costs nothing. Holds no tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..engine.problem import Canvas, CanvasProblem, Decoding
from .chat import prompt_of
from .healing import can_open, opening_for, typed_piece
from .layout import Limits, Prompt, canvas_of, file_header
from .snapshot import Snapshot
from .span import Gap
from .tokenizer import Tokenizer

ANCHOR_GRID = 16_384
"""A prefix longer than two of these is cut at a line start that only moves once per this many characters."""

CHARS_PER_TOKEN = 3
"""How much text a token budget is worth, on the safe side."""

NUM_SPARE = 2
"""Answers of a beam search that are taken along, should the likeliest not pass the gates."""

HEADER_CHARS = 4_000
SUFFIX_CHARS = 8_192


@dataclass(frozen=True, slots=True)
class Policy:
    """How gaps are posed and denoised, and what is in use.

    decoding: "beam" is for gaps within a line. Across lines an answer is hardly ever right to the character, and the
    likeliest one is not worth the time of a search: there "beam" stands for "verify".
    num_rows_line, num_rows_block: canvas rows of a gap within a line, and across lines.

    candidate_lengths: rows at which further canvases have their end pinned, one for each alternative that is asked for.
    use_drafts: whether what similar places have is a candidate too. instant_confidence: a draft that is so likely is
    the answer without asking the model.
    """

    decoding: Decoding = "beam"
    max_steps: int = 16
    num_rows_line: int = 32
    num_rows_block: int = 64
    candidate_lengths: tuple[int, ...] = (4, 8, 14)
    limits: Limits = field(default_factory=Limits)
    use_drafts: bool = False
    use_needs: bool = False
    """Whether imports that are missing are candidates too, and a line that binds a name which the code below needs."""
    use_definitions: bool = False
    """Whether the arguments of a call are candidates too, and the head of a function that others are called like."""
    use_neighbours: bool = False
    """Whether text of other documents goes into the prompt. The embedded model does not gain from it: 3.683 nats a
    token without, 3.689 with (150 held-out holes); it is trained on the file's own header alone."""
    instant_confidence: float = 0.8
    use_suffix: bool = True
    """Whether the model is shown what stands right of and below the gap."""
    use_healing: bool = True
    """Whether a word that is typed in part is tokenised anew (healing.py)."""
    use_syntax_gate: bool = True
    """Whether a result that adds a syntax error is refused."""
    use_scores: bool = True
    """Whether the engine can say how likely it finds a text (decoding="score"). A server cannot."""

    @property
    def can_score(self) -> bool:
        """Whether there is an encoder that decides, and can be asked about a text that is there already."""
        return self.use_scores and self.decoding != "denoise"

    def decoding_for(self, gap: Gap) -> Decoding:
        return "verify" if self.decoding == "beam" and gap.is_multiline else self.decoding


def windows(snapshot: Snapshot, gap: Gap, suffix_chars: int = SUFFIX_CHARS) -> tuple[str, str]:
    """The text before and after a gap, its lead and tail included, with `\\n` line ends."""
    text = snapshot.text
    anchor = max(0, gap.start // ANCHOR_GRID - 1) * ANCHOR_GRID
    if anchor:
        # a line of a megabyte has no line start to move to, and keeps the anchor
        newline = text.find("\n", anchor, gap.start)
        anchor = newline + 1 if newline >= 0 else anchor
    prefix = text[anchor : gap.start] + gap.lead
    suffix = (gap.tail + text[gap.end : gap.end + suffix_chars]) if suffix_chars else ""
    return _clean(prefix), _clean(suffix)


def _clean(text: str) -> str:
    """Plain newlines, and no lone surrogate, which no tokenizer takes."""
    text = text.replace("\r\n", "\n")
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def prompt_for(
    tokenizer: Tokenizer,
    snapshot: Snapshot,
    gap: Gap,
    policy: Policy,
    neighbours: str = "",
    head: str = "",
    old: str = "",
) -> Prompt:
    """The prompt of a gap. neighbours: text from elsewhere; the file's own import lines come first.

    head: the top of the document, where the snapshot begins below it. old: see chat.prompt_of.
    """
    prefix, suffix = windows(snapshot, gap, SUFFIX_CHARS if policy.use_suffix else 0)
    typed = typed_piece(prefix) if policy.use_healing else ""
    if not can_open(opening_for(tokenizer, typed), policy.decoding):
        typed = ""
    # the same rule as in training: the header is shown once the prefix window can no longer reach it
    is_far = gap.start + len(gap.lead) > 6 * policy.limits.num_prefix
    header = ""
    if is_far:
        header = file_header(head, len(head)) if head else file_header(snapshot.text[:HEADER_CHARS], gap.start)
    if header and neighbours:
        # both share one budget, whose end is cut off: what was chosen for this very gap goes before imports
        header = _first_lines(tokenizer, header, policy.limits.num_neighbour - len(tokenizer.encode(neighbours)))
    prefix = prefix.removesuffix(typed)
    prompt = prompt_of(tokenizer, prefix, suffix, _clean(header + neighbours), policy.limits, _clean(old))
    return replace(prompt, typed=typed) if typed else prompt


def _first_lines(tokenizer: Tokenizer, text: str, num_tokens: int) -> str:
    """The first lines of text that together take at most num_tokens."""
    end = 0
    for line in text.splitlines(keepends=True):
        num_tokens -= len(tokenizer.encode(line))
        if num_tokens < 0:
            break
        end += len(line)
    return text[:end]


def canvases_for(
    tokenizer: Tokenizer, gap: Gap, policy: Policy, num_alternatives: int = 1
) -> tuple[Canvas, ...]:
    """One free canvas, and one of a candidate length for each further alternative."""
    num_rows = policy.num_rows_block if gap.is_multiline else policy.num_rows_line
    canvases: list[Canvas] = [canvas_of(num_rows, None, tokenizer)]
    lengths = [length for length in policy.candidate_lengths if length < num_rows]
    canvases += [canvas_of(num_rows, length, tokenizer) for length in lengths[: max(0, num_alternatives - 1)]]
    return tuple(canvases)


def problem_for(
    tokenizer: Tokenizer,
    prompt: Prompt,
    gap: Gap,
    policy: Policy,
    num_alternatives: int = 1,
    deadline_ms: float | None = None,
    seed: int = 0,
) -> CanvasProblem:
    """What the engine is asked. Diffusion gets what `canvases_for` makes; a causal answer needs one canvas, and a beam
    search as many as answers are wanted.
    """
    decoding = policy.decoding_for(gap)
    # one answer may be what the editor has closed, and nothing else
    num_wanted = max(1, num_alternatives) + bool(gap.closed)
    if decoding == "denoise":
        canvases = canvases_for(tokenizer, gap, policy, num_alternatives)
    else:
        num_answers = num_wanted + NUM_SPARE if decoding == "beam" else 1
        canvases = canvases_for(tokenizer, gap, policy) * num_answers
    return CanvasProblem(
        prompt=prompt.tokens,
        canvases=canvases,
        max_steps=policy.max_steps,
        deadline_ms=deadline_ms,
        seed=seed,
        decoding=decoding,
        banned=tokenizer.banned_ids,
        stop=tokenizer.stop_ids(gap.is_multiline),
        opening=opening_for(tokenizer, prompt.typed),
        num_certain=num_wanted,
    )

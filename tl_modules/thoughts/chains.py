"""Generate or parse chains of thought on questions, and split them into thoughts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from tqdm.auto import tqdm

from tl_modules.activations.prompt_tokens import prompt_tokens
from tl_modules.activations.reading import Reading
from tl_modules.errors import ModulesError, check_type
from tl_modules.interpret.token_texts import pieces_of, skipped_ids, text_of
from tl_modules.models.generation import continued, text_end
from tl_modules.models.hooked_model import HookedModel
from tl_modules.tables.prompt_frames import prompt_frame

# The end of a sentence; and a number or letter of a list: "2." alone is no thought.
_END, _COUNTER = re.compile(r"[.!?][\"'\u201d\u2019)\]*]*$"), re.compile(r"\W*(\d{1,2}|\w)[.)]")


@dataclass(frozen=True)
class Chain:
    """A question followed by thoughts, as the tokens that the model reads."""

    row: int
    """The row of the question."""

    number: int
    """The chain's number among the chains of its question, from 0."""

    tokens: Int[torch.Tensor, " _pos"]
    """The question's tokens, then the thoughts' tokens."""

    ends: list[int]
    """The number of tokens of each state: of the question alone, then with each further thought."""

    thoughts: list[str]
    """The texts of the thoughts."""


def given_chains(
    model: HookedModel,
    asked: list[str],
    texts: Sequence[str],
    numbers: list[int],
    *,
    separator: str,
    form: Reading,
) -> list[Chain]:
    """Make chains of given texts, one per question.

    Args:
        model: The model.
        asked: The questions as the model is asked them.
        texts: One chain per question.
        numbers: The number of each chain among the chains of its question.
        separator: The text between a question and its chain; in chat form, the template's.
        form: Whether questions are in chat form, and after which system prompt.

    Raises:
        ModulesError: If the chains are no list, a chain is empty or has no tokens of its own, or
            there are not as many chains as questions.
    """
    check_type(
        texts,
        (str, list, tuple, pd.Series, np.ndarray),  # no frame: list(frame) is its column names
        "chains should be a list of texts",
        "Pass one text per row of questions.",
    )
    if isinstance(texts, str) or len(texts) != len(asked):
        got = "one string" if isinstance(texts, str) else len(texts)
        raise ModulesError(
            f"chains should hold one text per question, {len(asked)} in all; got {got}. For "
            "several chains of one question, repeat the question's row."
        )
    frame = prompt_frame(asked).assign(answer=list(texts), separator=separator)
    reading = replace(form, tokens="answer")
    found = prompt_tokens(model, frame, reading, None)
    # A chain's first token is the first one that counts.
    return [
        _chain(model, row, numbers[row], tokens, int(counted.int().argmax()))
        for row, (tokens, counted) in enumerate(zip(found.token_lists, found.counted, strict=True))
    ]


def question_tokens(
    model: HookedModel, asked: list[str], form: Reading
) -> list[Int[torch.Tensor, " _pos"]]:
    """Return the tokens after which the model generates its chains."""
    return prompt_tokens(model, prompt_frame(asked), form, None).token_lists


def written_chains(
    model: HookedModel,
    starts: Sequence[Int[torch.Tensor, " _pos"]],
    *,
    n_chains: int,
    n_new_tokens: int,
    temperature: float,
    seed: int,
    progress: bool,
) -> list[Chain]:
    """Generate ``n_chains`` chains per question, each up to its end (``text_end``).

    Raises:
        ModulesError: If the model cannot generate.
    """
    options: dict[str, Any] = {
        "temperature": temperature,
        "remedy": "Pass chains=[...], texts of another model or your own.",
    }
    chains: list[Chain] = []
    total = len(starts) * n_chains
    with tqdm(total=total, desc="write", unit="chain", disable=not progress) as bar:
        for row, start in enumerate(starts):
            for number in range(n_chains):
                # A seed per row and number: more chains leave the existing chains as they are.
                chain_seed = int(np.random.SeedSequence([seed, row, number]).generate_state(1)[0])
                tokens = continued(model, start, n_new_tokens, seed=chain_seed, **options)
                tokens = tokens[: text_end(model, tokens, len(start))]
                chains.append(_chain(model, row, number, tokens, len(start)))
                bar.update()
    return chains


def _chain(
    model: HookedModel, row: int, number: int, tokens: Int[torch.Tensor, " _pos"], start: int
) -> Chain:
    written = tokens[start:].tolist()
    # A special token has no text, and is no thought of its own.
    special = skipped_ids(model)
    pieces = zip(written, pieces_of(model, written), strict=True)
    ends = thought_ends(["" if token in special else piece for token, piece in pieces])
    texts = [
        text_of(model, written[first:last]).strip()
        for first, last in zip([0, *ends], ends, strict=False)
    ]
    return Chain(row, number, tokens, [start, *(start + end for end in ends)], texts)


def thought_ends(pieces: Sequence[str]) -> list[int]:
    r"""Split a text into thoughts at the ends of sentences and lines.

    Args:
        pieces: The part of the text that belongs to each token; a thought consists of whole tokens.

    Returns:
        The number of tokens up to the end of each thought. White space belongs to the next thought;
        at the end of the text, to the last thought.

    >>> thought_ends(["1.", " Two", " is", " 2", ".", "0", ".", " So", "\n", "four"])
    [7, 8, 10]
    """
    ends: list[int] = []
    current = ""
    for n_read, piece in enumerate(pieces, 1):
        current += piece
        # Pieces are empty inside a character of several tokens.
        following = next((later for later in pieces[n_read:] if later), "\n")
        if _is_thought(current, following):
            ends.append(n_read)
            current = ""
    if current.strip():
        ends.append(len(pieces))
    return [*ends[:-1], len(pieces)] if ends else []


def _is_thought(current: str, following: str) -> bool:
    """Whether a text is a whole thought, given the text that follows."""
    inner = current.strip()
    if not inner or _COUNTER.fullmatch(inner):
        return False
    trailing = current[len(current.rstrip()) :]
    between = trailing + following[: len(following) - len(following.lstrip())]
    # A sentence ends before white space only: "2.0" has a full stop inside.
    return "\n" in between or (bool(between) and _END.search(inner) is not None)

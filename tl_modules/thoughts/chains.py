"""Chains of thought: what a model writes on a question, cut into thoughts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from tqdm.auto import tqdm

from tl_modules.activations.prompt_tokens import prompt_tokens
from tl_modules.activations.reading import Reading
from tl_modules.errors import ModulesError, check_type
from tl_modules.interpret.token_texts import pieces_of, special_tokens, text_of
from tl_modules.models.generation import continued
from tl_modules.models.hooked_model import HookedModel
from tl_modules.tables.prompt_frames import prompt_frame

# The end of a sentence, and a number or letter that only counts what follows: "2." is no thought.
_END, _COUNTER = re.compile(r"[.!?][\"'\u201d\u2019)\]*]*$"), re.compile(r"\W*(\d{1,2}|\w)[.)]")


@dataclass(frozen=True)
class Chain:
    """A question and the thoughts after it, as the tokens that the model reads."""

    row: int
    """Which question."""

    number: int
    """Which of the question's chains, from 0."""

    tokens: Int[torch.Tensor, " _pos"]
    """The question's tokens, then the thoughts'."""

    ends: list[int]
    """How many tokens each state has: the question alone, then one thought more each time."""

    thoughts: list[str]
    """The thoughts' texts."""


def ask_in(frame: pd.DataFrame, ask: str) -> list[str]:
    """The questions as the model is asked them.

    Args:
        frame: Columns ``prompt`` and ``choices``.
        ask: Holds ``{question}`` and, where wanted, ``{choices}``, a line each.

    Raises:
        ModulesError: If it is no text, or holds no ``{question}``.
    """
    if not isinstance(ask, str) or "{question}" not in ask:
        raise ModulesError(f"ask should hold '{{question}}'; got {ask!r}. Say where it goes.")
    listed = ["\n".join(f"- {choice}" for choice in choices) for choices in frame["choices"]]
    # Not str.format: a question may hold braces of its own.
    values = [
        {"{question}": question, "{choices}": choices}
        for question, choices in zip(frame["prompt"], listed, strict=True)
    ]
    return [
        re.sub(r"\{question\}|\{choices\}", lambda found, own=own: own[found.group()], ask)
        for own in values
    ]


def given_chains(
    model: HookedModel,
    asked: list[str],
    texts: Sequence[str],
    numbers: list[int],
    *,
    separator: str,
    chat: bool,
) -> list[Chain]:
    """Chains of someone else's words, one a question.

    Args:
        model: The model.
        asked: The questions as the model is asked them.
        texts: One chain per question.
        numbers: Each chain's number among those of its question.
        separator: What stands between a question and its chain; in chat form the template does.
        chat: Ask in the tokenizer's chat template.

    Raises:
        ModulesError: If the chains are no list, one is empty or has no tokens of its own, or there
            are not as many as questions.
    """
    check_type(
        texts,
        (str, list, tuple, pd.Series, np.ndarray),  # listing a frame would give its columns
        "chains should be a list of texts",
        "Pass one for each row of questions.",
    )
    if isinstance(texts, str) or len(texts) != len(asked):
        got = "one string" if isinstance(texts, str) else len(texts)
        raise ModulesError(
            f"chains should hold one text for each of the {len(asked)} questions; got {got}. For "
            "several chains of a question, repeat its row."
        )
    frame = prompt_frame(asked).assign(answer=list(texts), separator=separator)
    reading = Reading(tokens="answer", chat=chat)
    found = zip(*prompt_tokens(model, frame, reading, None), strict=True)
    return [
        _chain(model, row, numbers[row], tokens, int(counted.int().argmax()))
        for row, (tokens, counted) in enumerate(found)
    ]


def question_tokens(
    model: HookedModel, asked: list[str], *, chat: bool
) -> list[Int[torch.Tensor, " _pos"]]:
    """The tokens after which the model writes its chains."""
    return prompt_tokens(model, prompt_frame(asked), Reading(chat=chat), None)[0]


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
    """Chains that the model writes, ``n_chains`` a question, up to its first special token.

    Raises:
        ModulesError: If it cannot write.
    """
    options: dict[str, Any] = {
        "temperature": temperature,
        "remedy": "Pass chains=[...], texts of another model or your own.",
    }
    ending, found = special_tokens(model), []
    total = len(starts) * n_chains
    with tqdm(total=total, desc="write", unit="chain", disable=not progress) as bar:
        for row, start in enumerate(starts):
            for number in range(n_chains):
                # By row and number, so that a chain stays the same beside more of them.
                own = int(np.random.SeedSequence([seed, row, number]).generate_state(1)[0])
                tokens = continued(model, start, n_new_tokens, seed=own, **options)
                new = tokens[len(start) :].tolist()
                stop = next((at for at, token in enumerate(new) if token in ending), len(new))
                tokens = tokens[: len(start) + stop]
                found.append(_chain(model, row, number, tokens, len(start)))
                bar.update()
    return found


def _chain(
    model: HookedModel, row: int, number: int, tokens: Int[torch.Tensor, " _pos"], start: int
) -> Chain:
    written = tokens[start:].tolist()
    ends = thought_ends(pieces_of(model, written))
    texts = [
        text_of(model, written[first:last]).strip()
        for first, last in zip([0, *ends], ends, strict=False)
    ]
    return Chain(row, number, tokens, [start, *(start + end for end in ends)], texts)


def thought_ends(pieces: Sequence[str]) -> list[int]:
    r"""Cut a text into thoughts, at the ends of its sentences and lines.

    Args:
        pieces: Each token's part of the text; a thought is made of whole tokens.

    Returns:
        How many tokens there are up to the end of each thought. White space goes with the thought
        after it, at the text's end with the last one.

    >>> thought_ends(["1.", " Two", " is", " 2", ".", "0", ".", " So", "\n", "four"])
    [7, 8, 10]
    """
    ends: list[int] = []
    said = ""
    for at, piece in enumerate(pieces, 1):
        said += piece
        following = next((each for each in pieces[at:] if each), "\n")
        if _is_thought(said, following):
            ends.append(at)
            said = ""
    if said.strip():
        ends.append(len(pieces))
    return [*ends[:-1], len(pieces)] if ends else []


def _is_thought(said: str, following: str) -> bool:
    """Whether a text that goes on with another is a whole thought."""
    inner = said.strip()
    if not inner or _COUNTER.fullmatch(inner):
        return False
    space = said[len(said.rstrip()) :] + following[: len(following) - len(following.lstrip())]
    return "\n" in space or (bool(space) and _END.search(inner) is not None)

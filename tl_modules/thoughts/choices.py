"""Validate multiple-choice questions, and measure a text's distance to each choice."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError
from tl_modules.models.answers import answers_of, join, warn_merged
from tl_modules.models.batch_sizes import BatchSize, batch_size_for
from tl_modules.models.batches import batches
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.runs import forward
from tl_modules.models.tokens import check_tokenizer, named_ids, read_text
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.tables.text import check_whole

_Tokens = Int[torch.Tensor, " _pos"]

PlacedTokens = tuple[int, Int[torch.Tensor, " _scored"]]
"""The position of the first of some tokens, and the tokens."""

# A text before a choice if there is no lead, because tokenizers treat the start of a text
# differently from its middle.
_STAND_IN = ":"


def question_frame(questions: Prompts) -> pd.DataFrame:
    """Validate questions, and sort each question's choices so that the correct one is first.

    Args:
        questions: Columns ``prompt``, ``choices``, ``answer`` and, optionally, ``id``.

    Returns:
        A new frame with ``id`` as text and the sorted choices in the column ``in_order``.

    Raises:
        ModulesError: If a column is missing, a question's choices are not a list of different texts
            that contains its answer, or questions differ in the number of choices.
    """
    frame = prompt_frame(questions)
    if "choices" not in frame.columns:
        raise ModulesError(
            "questions should be a frame with the columns 'prompt', 'choices' and 'answer'; got "
            f'{list(frame.columns)}. See load_prompts("choices").'
        )
    in_order = []
    for row, (given, answer) in enumerate(zip(frame["choices"], answers_of(frame), strict=True)):
        choices = list(given) if isinstance(given, list | tuple | np.ndarray) else []
        texts = [choice.strip() for choice in choices if isinstance(choice, str)]
        correct = answer.strip()
        if len(texts) != len(choices) or len(set(texts)) < max(2, len(texts)) or "" in texts:
            raise ModulesError(
                "Every question should have a list of at least two different texts as its choices; "
                f"question {row} has {given!r}. Correct or drop it."
            )
        if correct not in texts:
            raise ModulesError(
                f"Every question's answer should be one of its choices; question {row} has "
                f"{answer!r}, which is not in {texts}. Correct or drop it."
            )
        check_whole(texts, f"choice of question {row}")
        # The choices are kept unstripped: their white space is part of the text that is scored.
        in_order.append(
            sorted(choices, key=lambda choice, correct=correct: choice.strip() != correct)
        )
    counts = sorted({len(choices) for choices in in_order})
    if len(counts) > 1:
        raise ModulesError(
            "All questions should have the same number of choices, so that their distances can be "
            f"compared; got {counts}. Run questions of each number separately."
        )
    ids = frame["id"] if "id" in frame.columns else frame.index
    return frame.assign(
        id=[str(value) for value in ids], in_order=pd.Series(in_order, dtype=object)
    )


def choice_tokens(
    model: HookedModel, choices: Sequence[Sequence[str]], lead: str, separator: str
) -> tuple[_Tokens, list[list[_Tokens]]]:
    """Tokenise the lead and each question's choices as they appear after a state.

    Args:
        model: The model.
        choices: The choices of each question.
        lead: The text between a state and a choice.
        separator: The text between the lead and a choice; its tokens belong to the choice.

    Returns:
        The lead's tokens, and the tokens of each question's choices.

    Raises:
        ModulesError: If a choice has no tokens of its own after the lead.
    """
    check_tokenizer(model)
    before = lead or _STAND_IN
    following = [separator + choice for of_question in choices for choice in of_question]
    alone = read_text(model, before)
    ends, merged = [], []
    for row, text in enumerate(following):
        both = read_text(model, before + text).whole
        tokens, apart = join(model, alone.whole, both, (before, text), f"choice {row}")
        ends.append(tokens[len(alone.whole) :])
        merged += [row] * apart
    if lead:
        warn_merged([before] * len(following), following, merged)
    # The lead appears inside a text, so a BOS that the tokenizer added is dropped; a BOS that the
    # lead itself contains is kept.
    bos = named_ids(getattr(model, "tokenizer", None), "bos")
    added = not alone.has_bos and int(alone.whole[0]) in bos
    remaining = iter(ends)
    lead_tokens = alone.whole[int(added) :] if lead else alone.whole[:0]
    return lead_tokens, [[next(remaining) for _ in of_question] for of_question in choices]


def check_room(
    model: HookedModel,
    questions: Sequence[_Tokens],
    n_new_tokens: int,
    lead: _Tokens,
    choices: Sequence[Sequence[_Tokens]],
) -> None:
    """Raise, before chains are generated, if a chain and a choice might not fit after a question.

    Args:
        model: The model.
        questions: The tokens of each question.
        n_new_tokens: The largest number of tokens of a chain.
        lead: The tokens between a state and a choice.
        choices: The tokens of each question's choices.

    Raises:
        ModulesError: If a text might exceed the model's context.
    """
    for question, of_question in zip(questions, choices, strict=True):
        # The model predicts a choice's last token but does not read it.
        longest = max(len(choice) for choice in of_question) - 1
        _check_fits(model, len(question) + n_new_tokens + len(lead) + longest)


def _check_fits(model: HookedModel, n_tokens: int) -> None:
    n_ctx = getattr(model.cfg, "n_ctx", None) or np.inf
    if n_tokens > n_ctx:
        raise ModulesError(
            f"A question, its thoughts and a choice should fit the model's context of {n_ctx} "
            f"tokens; got up to {n_tokens}. Shorten them, or lower n_new_tokens."
        )


def choice_losses(
    model: HookedModel,
    states: Sequence[_Tokens],
    lead: _Tokens,
    choices: Sequence[Sequence[_Tokens]],
    batch_size: BatchSize,
    *,
    progress: bool,
) -> Float[np.ndarray, "states choices"]:
    """Compute each choice's mean loss per token after each state, in nats.

    This loss is the logarithm of the state's distance to the choice.

    Args:
        model: The model.
        states: The tokens of each state.
        lead: The tokens between a state and a choice, which do not count.
        choices: The tokens of each state's choices.
        batch_size: Texts per forward pass; see ``thought_states``.
        progress: Show a progress bar.

    Raises:
        ModulesError: If a state and a choice do not fit the model's context, or a loss is not
            finite.
    """
    # A choice's last token is not read, so choices that differ in it alone share one text: all
    # choices of one token need a single pass.
    texts: dict[tuple[int, ...], int] = {}
    scored: list[list[PlacedTokens]] = []
    places = []
    for state, of_state in zip(states, choices, strict=True):
        start = len(state) + len(lead)
        for choice in of_state:
            text = (*state.tolist(), *lead.tolist(), *choice[:-1].tolist())
            row = texts.setdefault(text, len(texts))
            if row == len(scored):
                scored.append([])
            places.append((row, len(scored[row])))
            scored[row].append((start, choice))
    inputs = [torch.tensor(text) for text in texts]
    losses = mean_losses(model, inputs, scored, batch_size, desc="choices", progress=progress)
    return np.array([losses[row][number] for row, number in places]).reshape(len(states), -1)


def mean_losses(
    model: HookedModel,
    token_lists: Sequence[_Tokens],
    scored: Sequence[Sequence[PlacedTokens]],
    batch_size: BatchSize,
    *,
    desc: str,
    progress: bool,
) -> list[list[float]]:
    """Compute the mean loss of tokens at positions of a text, in nats per token.

    The tokens need not be in the text: their last one may follow the text's end.

    Args:
        model: The model.
        token_lists: The tokens of each text.
        scored: The tokens to score in each text, with the position of the first (at least 1).
        batch_size: Texts per forward pass; see ``thought_states``.
        desc: The title of the progress bar.
        progress: Show a progress bar.

    Returns:
        One list per text, with one loss per entry of ``scored``.

    Raises:
        ModulesError: If a text does not fit the model's context, or a loss is not finite.
    """
    _check_fits(model, max(map(len, token_lists), default=0))
    batch_size = batch_size_for(model, batch_size, token_lists)
    mean_losses_of: list[list[float]] = [[] for _ in token_lists]
    with tqdm(total=len(token_lists), desc=desc, unit="text", disable=not progress) as bar:
        for batch in batches(token_lists, batch_size):
            logits = forward(model, batch.tokens, batch.mask, [])
            for place, row in enumerate(batch.rows.tolist()):
                for first, tokens in scored[row]:
                    # The logits at a position predict the next token.
                    predicted = logits[place, first - 1 : first - 1 + len(tokens)].float()
                    of_tokens = predicted.gather(1, tokens[:, None].to(logits.device)).squeeze(1)
                    mean_loss = (predicted.logsumexp(1) - of_tokens).mean()
                    mean_losses_of[row].append(float(mean_loss))
            bar.update(len(batch.rows))
    if not np.isfinite([loss for losses in mean_losses_of for loss in losses]).all():
        raise ModulesError(
            "Losses of texts should be finite; one is not. Run the model in a wider dtype."
        )
    return mean_losses_of

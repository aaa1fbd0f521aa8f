"""Multiple-choice questions, and how far a text lies from each choice."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError
from tl_modules.models.answers import answers_of, join, warn_merged
from tl_modules.models.batches import batches
from tl_modules.models.hooked_model import HookedModel, forward
from tl_modules.models.tokens import check_tokenizer, read_text, special_ids
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.tables.text import check_whole

_Tokens = Int[torch.Tensor, " _pos"]

Target = tuple[int, Int[torch.Tensor, " _target"]]
"""Where tokens begin, and the tokens."""

# Stands before a choice where nothing else does, so that it is tokenised as after a text.
_STAND_IN = ":"


def question_frame(questions: Prompts) -> pd.DataFrame:
    """The questions with their choices as lists, the correct one first, and ``id`` as text.

    Args:
        questions: Columns ``prompt``, ``choices``, ``answer`` and, where wanted, ``id``.

    Returns:
        A new frame.

    Raises:
        ModulesError: If a column is missing, a question's choices are no list of different texts
            with its answer, or not all questions have as many.
    """
    frame = prompt_frame(questions)
    if "choices" not in frame.columns:
        raise ModulesError(
            "questions should be a frame with the columns 'prompt', 'choices' and 'answer'; got "
            f'{list(frame.columns)}. See load_prompts("choices").'
        )
    found = []
    for row, (given, answer) in enumerate(zip(frame["choices"], answers_of(frame), strict=True)):
        choices = list(given) if isinstance(given, list | tuple | np.ndarray) else []
        texts = [choice.strip() for choice in choices if isinstance(choice, str)]
        correct = answer.strip()
        if len(texts) != len(choices) or len(set(texts)) < max(2, len(texts)) or "" in texts:
            raise ModulesError(
                "Every question should have a list of two or more different texts as its choices; "
                f"question {row} has {given!r}. Correct or drop it."
            )
        if correct not in texts:
            raise ModulesError(
                f"Every question's answer should be one of its choices; question {row} has "
                f"{answer!r}, which is not in {texts}. Correct or drop it."
            )
        check_whole(texts, f"choice of question {row}")
        # The choices' own texts are measured; white space around them matters there.
        found.append(sorted(choices, key=lambda choice, correct=correct: choice.strip() != correct))
    counts = sorted({len(choices) for choices in found})
    if len(counts) > 1:
        raise ModulesError(
            "All questions should have the same number of choices, so that their distances "
            f"compare; got {counts}. Run each number on its own."
        )
    ids = frame["id"] if "id" in frame.columns else frame.index
    return frame.assign(id=[str(each) for each in ids], in_order=pd.Series(found, dtype=object))


def choice_tokens(
    model: HookedModel, choices: Sequence[Sequence[str]], lead: str, separator: str
) -> tuple[_Tokens, list[list[_Tokens]]]:
    """The tokens of what leads from a state to a choice, and of each question's choices.

    Args:
        model: The model.
        choices: Each question's choices.
        lead: What stands after a state.
        separator: What stands between that and a choice; its tokens count as the choice's.

    Raises:
        ModulesError: If a choice has no tokens of its own after the lead.
    """
    check_tokenizer(model)
    before = lead or _STAND_IN
    following = [separator + choice for each in choices for choice in each]
    alone = read_text(model, before)
    ends, merged = [], []
    for row, text in enumerate(following):
        both = read_text(model, before + text).whole
        tokens, apart = join(model, alone.whole, both, (before, text), f"choice {row}")
        ends.append(tokens[len(alone.whole) :])
        merged += [row] * apart
    if lead:
        warn_merged([before] * len(following), following, merged)
    # A lead stands inside a text: the model's BOS does not belong to it, the lead's own does.
    bos = special_ids(getattr(model, "tokenizer", None), "bos")
    added = not alone.has_bos and int(alone.whole[0]) in bos
    of_each = iter(ends)
    led = alone.whole[int(added) :] if lead else alone.whole[:0]
    return led, [[next(of_each) for _ in each] for each in choices]


def check_room(
    model: HookedModel,
    questions: Sequence[_Tokens],
    n_new_tokens: int,
    lead: _Tokens,
    choices: Sequence[Sequence[_Tokens]],
) -> None:
    """Refuse questions after which a chain and a choice might not fit, before chains are written.

    Args:
        model: The model.
        questions: Each question's tokens.
        n_new_tokens: How long a chain may be.
        lead: Tokens between a state and a choice.
        choices: The choices' tokens, a list a question.

    Raises:
        ModulesError: If one might exceed the model's context.
    """
    for question, own in zip(questions, choices, strict=True):
        # A choice's last token is predicted, not read.
        longest = max(len(choice) for choice in own) - 1
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
    batch_size: int,
    *,
    progress: bool,
) -> Float[np.ndarray, "states choices"]:
    """Each choice's mean loss a token after each state, in nats: the logarithm of its distance.

    Args:
        model: The model.
        states: Each state's tokens.
        lead: Tokens between a state and a choice, which do not count.
        choices: The choices' tokens, a list a state.
        batch_size: Rows of a forward pass.
        progress: Show a progress bar.

    Raises:
        ModulesError: If a state and a choice do not fit the model's context, or a loss is not
            finite.
    """
    # Choices of one token are read off one pass, and others that differ in their last token alone.
    texts: dict[tuple[int, ...], int] = {}
    targets: list[list[Target]] = []
    places = []
    for state, own in zip(states, choices, strict=True):
        start = len(state) + len(lead)
        for choice in own:
            text = (*state.tolist(), *lead.tolist(), *choice[:-1].tolist())
            at = texts.setdefault(text, len(texts))
            if at == len(targets):
                targets.append([])
            places.append((at, len(targets[at])))
            targets[at].append((start, choice))
    inputs = [torch.tensor(text) for text in texts]
    losses = mean_losses(model, inputs, targets, batch_size, desc="choices", progress=progress)
    return np.array([losses[at][number] for at, number in places]).reshape(len(states), -1)


def mean_losses(
    model: HookedModel,
    token_lists: Sequence[_Tokens],
    targets: Sequence[Sequence[Target]],
    batch_size: int,
    *,
    desc: str,
    progress: bool,
) -> list[list[float]]:
    """The mean loss of tokens that stand somewhere in a text, or would, in nats a token.

    Args:
        model: The model.
        token_lists: Texts' tokens.
        targets: For each text, where some tokens begin, at 1 or later, and the tokens.
        batch_size: Rows of a forward pass.
        desc: What the progress bar is called.
        progress: Show it.

    Returns:
        One list a text, one loss a target.

    Raises:
        ModulesError: If a text does not fit the model's context, or a loss is not finite.
    """
    _check_fits(model, max(map(len, token_lists), default=0))
    found: list[list[float]] = [[] for _ in token_lists]
    with tqdm(total=len(token_lists), desc=desc, unit="text", disable=not progress) as bar:
        for batch in batches(token_lists, batch_size):
            logits = forward(model, batch.tokens, batch.mask, [])
            for place, row in enumerate(batch.rows.tolist()):
                for first, target in targets[row]:
                    predicted = logits[place, first - 1 : first - 1 + len(target)].float()
                    chosen = predicted.gather(1, target[:, None].to(logits.device)).squeeze(1)
                    found[row].append(float((predicted.logsumexp(1) - chosen).mean()))
            bar.update(len(batch.rows))
    if not np.isfinite([loss for losses in found for loss in losses]).all():
        raise ModulesError(
            "The loss of a text should be finite; one is not. Run the model in a wider dtype."
        )
    return found

"""Tokenise prompts with their answers.

The text is ``prompt + separator + answer``, exactly as given. The prompt keeps the tokens that it
has on its own, because the model generates from these tokens. Tokenising the whole text at once
could merge the prompt's last tokens with the answer's first tokens ("is " and "Paris" into " is"
and " Paris"). In that case the answer is tokenised separately and appended, so that the first token
of the answer is always a token that the model could generate after the prompt. A warning names the
first such prompt, because a model finds such tokens less likely than the usual ones. An answer of
several tokens has the tokens that the tokenizer gives its text; a model may generate the same text
in other tokens.
"""

from collections.abc import Sequence
from math import isnan
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from tl_modules.errors import ModulesError, check_type
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.tokens import check_context, check_tokenizer, read_texts, tokenise
from tl_modules.runtime.call_warnings import warn_once
from tl_modules.tables.text import check_whole

_Tokens = Int[torch.Tensor, " _pos"]


def answers_of(frame: pd.DataFrame) -> list[str]:
    """Validate and return each prompt's answer.

    Args:
        frame: The frame that ``prompt_frame`` returned.

    Returns:
        One text per prompt, unstripped; an answer may be white space. A whole number becomes its
        digits.

    Raises:
        ModulesError: If there is no column ``answer``, or an answer is missing or not a whole text.
    """
    if "answer" not in frame.columns:
        raise ModulesError(
            "Answers need a column 'answer' beside 'prompt'. Add it, or use metric='loss' "
            "(module_effects) or tokens='all' (collect)."
        )
    answers = frame["answer"].tolist()
    # Readers of CSV files make numbers of digits; a whole number has only one spelling.
    is_number = [isinstance(it, Integral) and not isinstance(it, bool) for it in answers]
    answers = [str(it) if whole else it for it, whole in zip(answers, is_number, strict=True)]
    for row, answer in enumerate(answers):
        if isinstance(answer, float) and not isnan(answer):
            raise ModulesError(
                f"Every answer should be a text; prompt {row} has {answer!r}, which has several "
                "spellings. Turn the column into text: frame['answer'].astype(str)."
            )
        if not isinstance(answer, str) or not answer:
            raise ModulesError(
                f"Every prompt should have an answer; prompt {row} has {answer!r}. Fill it in, or "
                "drop the prompt."
            )
    check_whole(answers, "answer")
    return answers


def with_separator(
    frame: pd.DataFrame, separator: str | None, *, answers: bool = True, chat: bool = False
) -> pd.DataFrame:
    """Add the column ``separator``, the text between each prompt and its answer.

    Args:
        frame: The frame that ``prompt_frame`` returned.
        separator: The separator of all prompts. None takes the frame's column ``separator``; a
            missing column or value is no separator.
        answers: Whether answers are used. Without answers, a separator is not allowed.
        chat: Whether prompts are in a chat template, which also separates them from their answers.

    Returns:
        The frame, with the column if separators are used.

    Raises:
        ModulesError: If a separator is no text, is not used, or differs from the frame's column.
    """
    if separator is not None:
        remedy = "Pass separator=' ' for a space."
        check_type(separator, str, "separator should be a text", remedy)
        check_whole([separator], "separator")
        if not answers:
            raise ModulesError(
                f"separator should be left out where no answer is read; got {separator!r}. Use an "
                "answer metric, loss_on='answer' or tokens='answer' to read answers."
            )
        if chat:
            raise ModulesError(
                "In chat form the template stands between a prompt and its answer; got separator="
                f"{separator!r}. Leave it out, or put the white space before the answer itself."
            )
    if chat or not answers:
        return frame
    in_frame = _frame_separators(frame)
    if separator is not None and any(value != separator for value in in_frame or ()):
        raise ModulesError(
            f"separator should be given once; separator={separator!r} differs from the prompts' "
            f"column 'separator', {shown_separators(in_frame or ())}. Leave separator out, or drop "
            "the column."
        )
    return frame.assign(separator=in_frame or [separator or ""] * len(frame))


def _frame_separators(frame: pd.DataFrame) -> list[str] | None:
    """Return the frame's separators, "" for a missing one; None without the column."""
    if "separator" not in frame.columns:
        return None
    missing = frame["separator"].isna().tolist()
    separators = [
        "" if is_missing else value
        for is_missing, value in zip(missing, frame["separator"], strict=True)
    ]
    for row, value in enumerate(separators):
        if not isinstance(value, str):
            raise ModulesError(
                f"The column 'separator' should hold the text between each prompt and its answer; "
                f"prompt {row} has {value!r}. Correct it, or rename the column."
            )
    check_whole(separators, "separator")
    return separators


def shown_separators(separators: Sequence[str]) -> str:
    """Quote the distinct separators, for tables and messages.

    >>> shown_separators([" ", "", " "])
    "'', ' '"
    """
    return ", ".join(repr(separator) for separator in sorted(set(separators)))


def tokenise_with_answers(
    model: HookedModel, frame: pd.DataFrame
) -> tuple[list[_Tokens], Int[np.ndarray, " prompts"]]:
    """Tokenise each prompt with its answer, and locate the answer's first token.

    Warns if tokenising prompt and answer at once would change the prompt's tokens.

    Args:
        model: The model.
        frame: The frame that ``with_separator`` returned, with ``answer``.

    Returns:
        The tokens of prompt, separator and answer, one tensor per prompt; and the position at which
        the separator, which counts as part of the answer, starts.

    Raises:
        ModulesError: If an answer is missing, has no tokens of its own, cannot be tokenised
            separately, or does not fit the model's context.
    """
    check_tokenizer(model)
    prompts, following = frame["prompt"].tolist(), following_texts(frame)
    joined = ["".join(texts) for texts in zip(prompts, following, strict=True)]
    together = [read.whole for read in read_texts(model, joined)]
    # Contexts are checked first: ``tokenise`` would cut a long prompt with only a warning.
    for row, both in enumerate(together):
        check_context(model, len(both), f"Prompt {row} with its answer")
    token_lists, starts, merged = [], [], []
    for row, (alone, both) in enumerate(zip(tokenise(model, prompts), together, strict=True)):
        tokens, apart = join(model, alone, both, (prompts[row], following[row]), f"prompt {row}")
        check_context(model, len(tokens), f"Prompt {row} with its answer")
        token_lists.append(tokens)
        starts.append(len(alone))
        merged += [row] * apart
    warn_merged(prompts, following, merged)
    return token_lists, np.array(starts)


def following_texts(frame: pd.DataFrame) -> list[str]:
    """Return the text that follows each prompt: its separator and its answer.

    Raises:
        ModulesError: If an answer is missing.
    """
    separators = frame["separator"] if "separator" in frame else [""] * len(frame)
    return [
        separator + answer for separator, answer in zip(separators, answers_of(frame), strict=True)
    ]


def join(
    model: HookedModel, alone: _Tokens, both: _Tokens, texts: tuple[str, str], name: str
) -> tuple[_Tokens, bool]:
    """Join the tokens of two texts so that the first text keeps its tokens.

    Args:
        model: The model.
        alone: The first text's tokens.
        both: The tokens of the two texts together.
        texts: The two texts.
        name: The first text's name in messages.

    Returns:
        ``both`` if it starts with the first text's tokens; otherwise the first text's tokens and
        the second's, tokenised separately. And whether they were tokenised separately.

    Raises:
        ModulesError: If the second text has no tokens of its own, or the two texts, tokenised
            separately, decode to another text.
    """
    if len(both) > len(alone) and torch.equal(both[: len(alone)], alone):
        return both, False
    tokenizer: Any = getattr(model, "tokenizer", None)
    second = tokenizer(texts[1], add_special_tokens=False)["input_ids"] if tokenizer else []
    apart = torch.cat([alone, torch.tensor(second, dtype=alone.dtype)])
    if second and _decoded(tokenizer, apart) == _decoded(tokenizer, both):
        return apart, True
    raise ModulesError(
        f"The answer should follow its prompt as tokens of its own; that of {name} does not: "
        f"{texts[0][-30:]!r} + {texts[1][:30]!r}. Put a separator between them (separator=' ' for "
        "a space, or a column 'separator'), or move white space from the prompt's end to the "
        "answer's beginning."
    )


def _decoded(tokenizer: Any, tokens: _Tokens) -> str:
    return tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False)


def warn_merged(prompts: Sequence[str], following: Sequence[str], merged: Sequence[int]) -> None:
    """Warn of answers that were tokenised separately to keep their prompts' tokens.

    Args:
        prompts: The prompts.
        following: The text after each prompt.
        merged: The rows of the prompts to warn of.
    """
    if not merged:
        return
    row = merged[0]
    warn_once(
        "merged",
        f"Read at once, a prompt and its answer would merge into other tokens with {len(merged)} "
        f"of {len(prompts)} prompts; the first is prompt {row}: {prompts[row][-30:]!r} + "
        f"{following[row][:30]!r}. The prompt keeps its own tokens, and the answer's follow, which "
        "the model may find less likely. Move white space from the prompt's end to the answer's "
        "beginning, or separate the two (separator=' ' for a space; not in chat form).",
    )

"""Prompts with their answers: what separates the two, and the tokens of both.

The text is ``prompt + separator + answer``, exactly as given. The prompt keeps the tokens that it
has alone, because the model reads it, and generates from it, as those. Where the whole text, read
at once, would merge the prompt's last tokens with the answer's first ("is " and "Paris" into " is"
and " Paris"), the answer is tokenised apart and follows the prompt: the token that the model would
generate next then counts as found, wherever the prompt ends. A warning names the first such prompt,
because a model finds such tokens less likely than the usual ones. An answer of several tokens is
read as the tokenizer reads its text, which a model may have written in other tokens.
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
from tl_modules.models.tokens import check_context, check_tokenizer, read_text, tokenise
from tl_modules.runtime.call_warnings import warn_once
from tl_modules.tables.text import check_whole

_Tokens = Int[torch.Tensor, " _pos"]


def answers_of(frame: pd.DataFrame) -> list[str]:
    """Each prompt's answer, as given.

    Args:
        frame: What ``prompt_frame`` returned.

    Returns:
        One text per prompt; white space counts, and an answer may consist of it. A whole number is
        its digits.

    Raises:
        ModulesError: If there is no column ``answer``, or a prompt has none or no whole text.
    """
    if "answer" not in frame.columns:
        raise ModulesError(
            "Answers need a column 'answer' beside 'prompt'. Add it, or use metric='loss' "
            "(module_effects) or tokens='all' (collect)."
        )
    answers = frame["answer"].tolist()
    # Whole numbers, as readers of CSV files make them, have one spelling.
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
    """The prompts with a column ``separator``: what stands between each prompt and its answer.

    Args:
        frame: What ``prompt_frame`` returned.
        separator: The same for every prompt. None takes the frame's own column ``separator``, and
            nothing where that is absent or blank.
        answers: Whether answers are read. Without them a separator has no use.
        chat: Whether prompts stand in a chat template, which then stands before the answer too.

    Returns:
        The frame, with the column where a separator is used.

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
                "answer metric or tokens='answer' to read answers."
            )
        if chat:
            raise ModulesError(
                "In chat form the template stands between a prompt and its answer; got separator="
                f"{separator!r}. Leave it out, or put the white space before the answer itself."
            )
    if chat or not answers:
        return frame
    own = _own_separators(frame)
    if separator is not None and any(each != separator for each in own or ()):
        raise ModulesError(
            f"separator should be given once; separator={separator!r} differs from the prompts' "
            f"column 'separator', {shown_separators(own or ())}. Leave separator out, or drop the "
            "column."
        )
    return frame.assign(separator=own or [separator or ""] * len(frame))


def _own_separators(frame: pd.DataFrame) -> list[str] | None:
    """The frame's own separators, "" for a missing one; None without the column."""
    if "separator" not in frame.columns:
        return None
    missing = frame["separator"].isna().tolist()
    own = ["" if gone else it for gone, it in zip(missing, frame["separator"], strict=True)]
    for row, each in enumerate(own):
        if not isinstance(each, str):
            raise ModulesError(
                f"The column 'separator' should hold what stands between each prompt and its "
                f"answer, a text; prompt {row} has {each!r}. Correct it, or rename the column."
            )
    check_whole(own, "separator")
    return own


def shown_separators(separators: Sequence[str]) -> str:
    """The different separators, quoted, for tables and messages.

    >>> shown_separators([" ", "", " "])
    "'', ' '"
    """
    return ", ".join(repr(each) for each in sorted(set(separators)))


def tokenise_with_answers(
    model: HookedModel, frame: pd.DataFrame
) -> tuple[list[_Tokens], Int[np.ndarray, " prompts"]]:
    """Each prompt's tokens with its answer's, and the position where the answer begins.

    Warns where the text of prompt and answer, read at once, would change the prompt's own tokens.

    Args:
        model: The model.
        frame: What ``with_separator`` returned, with ``answer``.

    Returns:
        One tensor per prompt, of the prompt, the separator and the answer; and where the separator
        begins, which counts as part of the answer.

    Raises:
        ModulesError: If an answer is missing, has no tokens of its own, cannot be tokenised apart
            from its prompt, or does not fit the model's context.
    """
    check_tokenizer(model)
    prompts, following = frame["prompt"].tolist(), following_texts(frame)
    together = []
    for row, texts in enumerate(zip(prompts, following, strict=True)):
        together.append(read_text(model, "".join(texts)).whole)
        check_context(model, len(together[-1]), f"Prompt {row} with its answer")
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
    """What follows each prompt: its separator and its answer.

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
    """The tokens of two texts, one after the other, of which the first keeps its own.

    Args:
        model: The model.
        alone: The first text's tokens.
        both: The tokens of the two texts together.
        texts: The two texts.
        name: What the first is called in messages.

    Returns:
        ``both`` where they begin with the first text's, and otherwise the first text's tokens and
        then the second's; and whether that was so.

    Raises:
        ModulesError: If the second text has no tokens of its own, or the two, tokenised apart,
            spell another text.
    """
    if len(both) > len(alone) and torch.equal(both[: len(alone)], alone):
        return both, False
    tokenizer: Any = getattr(model, "tokenizer", None)
    own = tokenizer(texts[1], add_special_tokens=False)["input_ids"] if tokenizer else []
    apart = torch.cat([alone, torch.tensor(own, dtype=alone.dtype)])
    if own and _decoded(tokenizer, apart) == _decoded(tokenizer, both):
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
    """Warn of answers that were tokenised apart because their prompts' tokens would change.

    Args:
        prompts: The prompts.
        following: What follows each.
        merged: The rows of those prompts.
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

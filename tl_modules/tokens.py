"""Prompts to padded batches of tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int, Shaped

from tl_modules.errors import ModulesError, check_at_least
from tl_modules.frames import as_texts, check_whole, plain_frame
from tl_modules.model import HookedModel, check_model
from tl_modules.prompt_tables import check_texts, prompt_table


@dataclass(frozen=True)
class Batch:
    """Prompts of similar length, padded on the right."""

    rows: Int[np.ndarray, " batch"]
    """Which prompts they are."""

    tokens: Int[torch.Tensor, "batch pos"]
    """Token ids."""

    mask: Bool[torch.Tensor, "batch pos"]
    """True where a token is real."""

    counted: Bool[torch.Tensor, "batch pos"]
    """True where a token counts: all real ones, or some of them."""


def prompt_frame(prompts: object, name: str = "prompts") -> pd.DataFrame:
    """The prompts as a frame with a column ``prompt``, numbered from 0.

    Args:
        prompts: Whatever ``prompt_table`` takes; other columns, such as ``category``, stay.
        name: What messages call them.

    Returns:
        A new frame, with columns that can be saved (see ``plain_frame``).

    Raises:
        ModulesError: If there is no prompt, one is no string, or a column cannot be saved.
    """
    frame = prompt_table(prompts, name)
    check_texts(frame["prompt"].tolist(), name)
    return plain_frame(frame)


def categories_of(frame: pd.DataFrame) -> Shaped[np.ndarray, " prompts"]:
    """Each prompt's category, ``"all"`` where there is none.

    Args:
        frame: What ``prompt_frame`` returned.

    Returns:
        Texts, one a prompt.

    Raises:
        ModulesError: If only some prompts have one that is not blank, or one is no whole text.
    """
    if "category" not in frame.columns:
        return np.full(len(frame), "all", dtype=object)
    texts = as_texts(frame["category"])
    blank = np.array([not text.strip() for text in texts])
    missing = np.flatnonzero(frame["category"].isna().to_numpy() | blank)
    if len(missing):
        raise ModulesError(
            f"Every prompt should have a category; prompt {missing[0]} has none. Fill it in, drop "
            "the prompt, or drop the column."
        )
    check_whole(texts, "category")
    return texts.to_numpy()


def is_category(
    categories: Shaped[np.ndarray, " prompts"], name: str
) -> Bool[np.ndarray, " prompts"]:
    """Which prompts are of a category. Not by ``==``: NumPy drops zero bytes at a text's end."""
    return np.array([category == name for category in categories], dtype=bool)


def tokenise(
    model: HookedModel, prompts: Sequence[str], max_tokens: int | None = None, least: int = 1
) -> list[Int[torch.Tensor, " _pos"]]:
    """Each prompt's tokens, as the model's own ``to_tokens`` gives them (BOS where it does).

    One prompt at a time, so that no padding enters and the tokenizer's padding side is moot. A
    prompt longer than the model's context is cut there, as TransformerLens does. All of its text is
    tokenised first, a second or two a megabyte.

    Args:
        model: The model.
        prompts: The prompts.
        max_tokens: Cut each prompt after so many tokens, BOS counted.
        least: How many tokens a prompt should have at least, after the cut; 2 to predict one.

    Returns:
        One tensor a prompt.

    Raises:
        ModulesError: If the model has no tokenizer, or a prompt tokenises to nothing (beyond a BOS
            token) or to fewer tokens than the least.
    """
    check_model(model)
    if max_tokens is not None:
        check_at_least("max_tokens", max_tokens, 1)
    tokenizer = getattr(model, "tokenizer", None)
    if hasattr(model, "tokenizer") and tokenizer is None:
        raise ModulesError(
            "The model should have a tokenizer to read prompts with; it has none. Load it with "
            "one, or run your own tokens and add the caches to a Collector."
        )
    bos = getattr(tokenizer, "bos_token_id", None)
    found = []
    for row, prompt in enumerate(prompts):
        tokens = model.to_tokens(prompt)[0]
        if not len(tokens) or bool((tokens == (-1 if bos is None else bos)).all()):
            raise ModulesError(
                f"Every prompt should hold at least one token; prompt {row} ({prompt!r}) "
                "tokenises to nothing. Drop it."
            )
        found.append(tokens[:max_tokens].long().cpu())
        if len(found[-1]) < least:
            raise ModulesError(
                f"Every prompt should have at least two tokens, so that one is predicted from "
                f"another; prompt {row} has {len(found[-1])}. Drop it, or raise max_tokens."
            )
    return found


def answers_of(frame: pd.DataFrame) -> list[str]:
    """Each prompt's answer, without space around it.

    Args:
        frame: What ``prompt_frame`` returned.

    Returns:
        Texts, one a prompt.

    Raises:
        ModulesError: If there is no column ``answer``, or a prompt has none or no whole text.
    """
    if "answer" not in frame.columns:
        raise ModulesError(
            "Answers need a column 'answer' beside 'prompt'. Add it, or use metric='loss' "
            "(module_effects) or tokens='all' (collect)."
        )
    answers = frame["answer"].tolist()
    for row, answer in enumerate(answers):
        if not isinstance(answer, str) or not answer.strip():
            raise ModulesError(
                f"Every prompt should have an answer; prompt {row} has {answer!r}. Fill it in, or "
                "drop the prompt."
            )
    check_whole(answers, "answer")
    return [answer.strip() for answer in answers]


def tokenise_with_answers(
    model: HookedModel, frame: pd.DataFrame
) -> tuple[list[torch.Tensor], Int[np.ndarray, " prompts"]]:
    """Each prompt's tokens with its answer's, and the position where the answer begins.

    Args:
        model: The model.
        frame: What ``prompt_frame`` returned, with ``answer``.

    Returns:
        One tensor a prompt, of the prompt, a space and the answer; and where the answers begin.

    Raises:
        ModulesError: If an answer is missing, changes how its prompt is tokenised, or does not fit
            the model's context.
    """
    prompts = [prompt.rstrip() for prompt in frame["prompt"]]
    whole = [
        f"{prompt} {answer}" for prompt, answer in zip(prompts, answers_of(frame), strict=True)
    ]
    token_lists = tokenise(model, whole)
    longest = getattr(model.cfg, "n_ctx", None) or np.inf
    starts = []
    for row, (alone, both) in enumerate(zip(tokenise(model, prompts), token_lists, strict=True)):
        if len(both) >= longest:
            raise ModulesError(
                f"A prompt and its answer should fit the model's context of {longest} tokens; "
                f"prompt {row} may not. Shorten it."
            )
        if len(both) <= len(alone) or not torch.equal(both[: len(alone)], alone):
            raise ModulesError(
                f"The answer should follow its prompt as tokens of its own; with prompt {row} "
                f"({whole[row]!r}) it changes the prompt's tokens or is cut off. Reword it."
            )
        starts.append(len(alone))
    return token_lists, np.array(starts)


def batches(
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    batch_size: int,
    counted: Sequence[Bool[torch.Tensor, " _pos"]] | None = None,
    chosen: Int[np.ndarray, " _chosen"] | None = None,
) -> Iterator[Batch]:
    """Batches of prompts of similar length, longest first.

    Padding goes on the right, where causal attention keeps it from reaching any real token; the
    longest batch comes first so that memory runs out at once or never.

    Args:
        token_lists: Each prompt's tokens.
        batch_size: How many prompts at a time.
        counted: Which tokens of each prompt count; all by default.
        chosen: Which prompts; all by default.

    Raises:
        ModulesError: If ``batch_size`` is below 1.
    """
    check_at_least("batch_size", batch_size, 1)
    order = np.arange(len(token_lists)) if chosen is None else chosen
    lengths = np.array([len(token_lists[row]) for row in order.tolist()])
    longest_first = np.argsort(-lengths, kind="stable")
    order, lengths = order[longest_first], lengths[longest_first]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        lists = [token_lists[row] for row in rows]
        tokens = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True)
        positions = torch.arange(tokens.shape[1])
        mask = positions[None, :] < torch.from_numpy(lengths[start : start + batch_size])[:, None]
        count = mask
        if counted is not None:
            count = torch.nn.utils.rnn.pad_sequence(
                [counted[row] for row in rows], batch_first=True
            )
        yield Batch(rows, tokens, mask, count)

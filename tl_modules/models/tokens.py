"""Prompts to padded batches of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int

from tl_modules.errors import ModulesError, check_at_least
from tl_modules.models.hooked_model import HookedModel, check_model
from tl_modules.runtime.call_warnings import warn_once

_NO_LIMIT = 10**9
"""A tokenizer whose ``model_max_length`` is not known gives a larger number."""


@dataclass(frozen=True)
class ReadText:
    """One text as the model reads it."""

    tokens: Int[torch.Tensor, " _pos"]
    """Its token ids, cut at the model's context. BOS is added only to a text that lacks it."""

    whole: Int[torch.Tensor, " _all"]
    """The same without the cut."""

    has_bos: bool
    """Whether the text itself begins with the BOS that the model would add."""


def read_text(model: HookedModel, text: str) -> ReadText:
    """A text's tokens, as the model's own ``to_tokens`` gives them, but never with a BOS too many.

    ``to_tokens`` puts BOS before a text that begins with BOS already, as a rendered chat template
    does. The text's own is enough.

    Args:
        model: The model, with a tokenizer.
        text: The text.

    Returns:
        The tokens, on the CPU.

    Raises:
        ModulesError: If the BOS that the model puts before the text is no token of its tokenizer,
            and so changes the text's own tokens.
    """
    tokens = model.to_tokens(text)[0].long().cpu()
    _check_bos(model, text, tokens.tolist())
    whole, limit = tokens, _context(model)
    # Special tokens at a text's end may be cut off again, so that a cut text is a little shorter.
    if limit is not None and limit - 2 <= len(tokens) <= limit:
        whole = model.to_tokens(text, truncate=False)[0].long().cpu()
    if not _adds_second_bos(model, text, tokens):
        return ReadText(tokens, whole, False)
    return ReadText(whole[1:][:limit], whole[1:], True)


def _check_bos(model: HookedModel, text: str, tokens: list[int]) -> None:
    """Refuse a BOS that the tokenizer reads as text: it runs into the text's first word.

    TransformerLens gives a tokenizer without BOS and EOS the BOS ``<|endoftext|>``, as text.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    bos = getattr(tokenizer, "bos_token", None)
    if not isinstance(bos, str) or bos == tokenizer.unk_token:
        return
    if tokenizer.convert_tokens_to_ids(bos) not in (None, tokenizer.unk_token_id):
        return
    given = tokenizer(text, add_special_tokens=False)["input_ids"]
    # A model that prepends no BOS adds nothing, or one special token, such as CLS.
    n_added = int(tokens[:1] != given[:1] and tokens[:1] != [tokenizer.unk_token_id])
    if _begins(tokens[n_added:], given):
        return
    raise ModulesError(
        f"The BOS token that the model prepends should be a token of its tokenizer; {bos!r} is "
        f"none, so that the text {_start(text)} begins with the tokens {tokens[:3]} in place "
        f"of {given[:3]}. Give the tokenizer a BOS token before the model is booted with it, or "
        "set model.cfg.default_prepend_bos = False."
    )


def _begins(tokens: list[int], given: list[int]) -> bool:
    """Whether one list begins as the other, which may be longer: a long text is cut."""
    shared = min(len(tokens), len(given))
    return tokens[:shared] == given[:shared]


def _adds_second_bos(model: HookedModel, text: str, tokens: Int[torch.Tensor, " _pos"]) -> bool:
    """Whether the first of a text's tokens was added to a text that begins with the same one."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    if len(tokens) < 2 or int(tokens[0]) not in special_ids(tokenizer, "bos", "cls"):
        return False
    if int(tokens[0]) != int(tokens[1]):
        return False
    # Two may be the text's own: what is given stays.
    given = tokenizer(text, add_special_tokens=False)["input_ids"]
    return 0 < _n_leading(given, int(tokens[0])) < _n_leading(tokens.tolist(), int(tokens[0]))


def _n_leading(tokens: Sequence[int], token: int) -> int:
    return next((at for at, each in enumerate(tokens) if each != token), len(tokens))


def special_ids(tokenizer: Any, *kinds: str) -> set[int]:
    """The ids of a tokenizer's special tokens of some kinds, such as ``"bos"``, where it has them.

    Args:
        tokenizer: The tokenizer, or None.
        kinds: The first part of the attributes ``bos_token_id``, ``cls_token_id``, ...
    """
    found = (getattr(tokenizer, f"{kind}_token_id", None) for kind in kinds)
    return {number for number in found if number is not None}


def _context(model: HookedModel) -> int | None:
    """After how many tokens ``to_tokens`` cuts a text; None for never."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    limit = getattr(model.cfg, "n_ctx", None) or getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit and limit < _NO_LIMIT else None


def check_context(
    model: HookedModel, n_tokens: int, what: str, remedy: str = "Shorten it."
) -> None:
    """Refuse a text that the model would have to cut.

    Args:
        model: The model.
        n_tokens: How many tokens the text has.
        what: What it is called in the message.
        remedy: What to do instead.

    Raises:
        ModulesError: If it does not fit the model's context.
    """
    limit = _context(model)
    if limit is not None and n_tokens > limit:
        raise ModulesError(
            f"{what} should fit the model's context of {limit} tokens; it has {n_tokens}. {remedy}"
        )


def check_tokenizer(model: HookedModel) -> None:
    """Refuse a model that reads no texts.

    Raises:
        ModulesError: If it is no hooked model, or has no tokenizer.
    """
    check_model(model)
    if hasattr(model, "tokenizer") and getattr(model, "tokenizer", None) is None:
        raise ModulesError(
            "The model should have a tokenizer to read prompts with; it has none. Load it with "
            "one, or run your own tokens and add the caches to a Collector."
        )


def tokenise(
    model: HookedModel, prompts: Sequence[str], max_tokens: int | None = None, least: int = 1
) -> list[Int[torch.Tensor, " _pos"]]:
    """Each prompt's tokens, as the model's own ``to_tokens`` gives them (BOS where it does).

    One prompt at a time, so that no padding enters and the tokenizer's padding side is moot. All of
    a prompt's text is tokenised first, a second or two a megabyte. A prompt that begins with BOS
    gets no second one, and a prompt longer than the model's context is cut there; a warning says
    so, once per public call.

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
    check_tokenizer(model)
    if max_tokens is not None:
        check_at_least("max_tokens", max_tokens, 1)
    bos = special_ids(getattr(model, "tokenizer", None), "bos")
    found, with_bos, too_long = [], [], {}
    for row, prompt in enumerate(prompts):
        read = read_text(model, prompt)
        if bos.issuperset(read.tokens.tolist()):
            raise ModulesError(
                f"Every prompt should hold at least one token; prompt {row} ({prompt!r}) "
                "tokenises to nothing. Drop it."
            )
        found.append(read.tokens[:max_tokens])
        if len(found[-1]) < least:
            raise ModulesError(
                f"Every prompt should have at least two tokens, so that one is predicted from "
                f"another; prompt {row} has {len(found[-1])}. Drop it, or raise max_tokens."
            )
        with_bos += [row] * read.has_bos
        if len(found[-1]) < len(read.whole[:max_tokens]):
            too_long[row] = len(read.whole)
    if with_bos:
        _warn_of_bos(model, prompts, with_bos, int(found[with_bos[0]][0]))
    if too_long:
        _warn_of_cuts(model, prompts, too_long)
    return found


def _warn_of_bos(
    model: HookedModel, prompts: Sequence[str], rows: Sequence[int], bos_id: int
) -> None:
    tokenizer: Any = getattr(model, "tokenizer", None)
    bos = tokenizer.decode([bos_id])
    warn_once(
        "bos",
        f"{len(rows)} of {len(prompts)} prompts already begin with {bos!r}, as a rendered chat "
        f"template does; the first is prompt {rows[0]} ({_start(prompts[rows[0]])}). No second "
        f"{bos!r} is put before them. Remove it from the text, which leaves the tokens as they "
        "are, or pass plain prompts (and chat=True to collect).",
    )


def _warn_of_cuts(model: HookedModel, prompts: Sequence[str], n_tokens: dict[int, int]) -> None:
    row, number = next(iter(n_tokens.items()))
    limit = _context(model)
    warn_once(
        "context",
        f"{len(n_tokens)} of {len(prompts)} prompts are longer than the model's context of {limit} "
        f"tokens and are cut there; the first is prompt {row} ({_start(prompts[row])}), which has "
        f"{number}. Shorten them, or pass max_tokens={limit} or less to cut them without this "
        "warning.",
    )


def _start(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")

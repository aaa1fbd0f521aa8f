"""Tokenise prompts with a model's tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int

from tl_modules.errors import ModulesError, check_at_least
from tl_modules.models.hooked_model import HookedModel, check_model
from tl_modules.models.token_recipe import tokenised_together
from tl_modules.runtime.call_warnings import warn_once

_NO_LIMIT = 10**9
"""A tokenizer of unknown ``model_max_length`` reports a number above this."""


@dataclass(frozen=True)
class ReadText:
    """The tokens of one text as the model reads it."""

    tokens: Int[torch.Tensor, " _pos"]
    """The token ids, cut at the model's context. BOS is added only to a text that lacks it."""

    whole: Int[torch.Tensor, " _all"]
    """The token ids without the cut."""

    has_bos: bool
    """Whether the text itself starts with the BOS that the model would add."""


def read_text(model: HookedModel, text: str) -> ReadText:
    """Tokenise a text with the model's ``to_tokens``, without a second BOS.

    ``to_tokens`` prepends BOS even to a text that starts with BOS, as a rendered chat template
    does; this function drops the added one.

    Args:
        model: The model, with a tokenizer.
        text: The text.

    Returns:
        The tokens, on the CPU.

    Raises:
        ModulesError: If the BOS that the model prepends is no token of its tokenizer, and so
            changes the text's own tokens.
    """
    tokens = model.to_tokens(text)[0].long().cpu()
    _check_bos(model, text, tokens.tolist())
    whole, limit = tokens, _context(model)
    # A cut text may be up to two tokens shorter than the limit, because to_tokens drops special
    # tokens at its end. Only a text of about this length is tokenised a second time.
    if limit is not None and limit - 2 <= len(tokens) <= limit:
        whole = model.to_tokens(text, truncate=False)[0].long().cpu()
    if not _adds_second_bos(model, text, tokens):
        return ReadText(tokens, whole, False)
    return ReadText(whole[1:][:limit], whole[1:], True)


def read_texts(model: HookedModel, texts: Sequence[str]) -> list[ReadText]:
    """Tokenise texts as ``read_text`` does each, by few calls of the tokenizer.

    Args:
        model: The model, with a tokenizer.
        texts: The texts.

    Returns:
        What ``read_text`` returns for each text.

    Raises:
        ModulesError: As in ``read_text``.
    """
    together = None if _splits_bos(model) else tokenised_together(model, texts)
    if together is None:
        return [read_text(model, text) for text in texts]
    limit = _context(model)
    bos = named_ids(getattr(model, "tokenizer", None), "bos", "cls")
    found = []
    for text, ids in zip(texts, together, strict=True):
        # Texts that to_tokens may cut, and texts of two BOS, which are few, are read alone.
        is_cut = limit is not None and len(ids) > limit - 2
        if is_cut or (len(ids) > 1 and ids[0] == ids[1] and ids[0] in bos):
            found.append(read_text(model, text))
        else:
            tokens = torch.tensor(ids, dtype=torch.long)
            found.append(ReadText(tokens, tokens, False))
    return found


def _check_bos(model: HookedModel, text: str, tokens: list[int]) -> None:
    """Raise for a BOS that the tokenizer splits as text, because it merges with the first word.

    TransformerLens gives a tokenizer without BOS and EOS the BOS ``<|endoftext|>``, as text.
    """
    if not _splits_bos(model):
        return
    tokenizer: Any = getattr(model, "tokenizer", None)
    bos = tokenizer.bos_token
    given = tokenizer(text, add_special_tokens=False)["input_ids"]
    # A model that prepends no BOS adds nothing or one special token, such as CLS.
    n_added = int(tokens[:1] != given[:1] and tokens[:1] != [tokenizer.unk_token_id])
    if _begins(tokens[n_added:], given):
        return
    raise ModulesError(
        f"The BOS token that the model prepends should be a token of its tokenizer; {bos!r} is "
        f"none, so the text {_start(text)} starts with the tokens {tokens[:3]} instead of "
        f"{given[:3]}. Give the tokenizer a BOS token before booting the model, or set "
        "model.cfg.default_prepend_bos = False."
    )


def _splits_bos(model: HookedModel) -> bool:
    """Whether the tokenizer has a BOS that is no token of it."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    bos = getattr(tokenizer, "bos_token", None)
    if not isinstance(bos, str) or bos == tokenizer.unk_token:
        return False
    return tokenizer.convert_tokens_to_ids(bos) in (None, tokenizer.unk_token_id)


def _begins(tokens: list[int], given: list[int]) -> bool:
    """Whether two lists are equal up to the shorter one's end; a long text may be cut."""
    shared = min(len(tokens), len(given))
    return tokens[:shared] == given[:shared]


def _adds_second_bos(model: HookedModel, text: str, tokens: Int[torch.Tensor, " _pos"]) -> bool:
    """Whether the first token was added to a text that starts with the same token."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    if len(tokens) < 2 or int(tokens[0]) not in named_ids(tokenizer, "bos", "cls"):
        return False
    if int(tokens[0]) != int(tokens[1]):
        return False
    # The text itself may start with two BOS, which are kept.
    given = tokenizer(text, add_special_tokens=False)["input_ids"]
    return 0 < _n_leading(given, int(tokens[0])) < _n_leading(tokens.tolist(), int(tokens[0]))


def _n_leading(tokens: Sequence[int], token: int) -> int:
    return next((n for n, other in enumerate(tokens) if other != token), len(tokens))


def named_ids(tokenizer: Any, *kinds: str) -> set[int]:
    """Return the ids of a tokenizer's special tokens of some kinds, such as ``"bos"``.

    Args:
        tokenizer: The tokenizer, or None.
        kinds: The first part of the attributes ``bos_token_id``, ``cls_token_id``, ...
    """
    ids = (getattr(tokenizer, f"{kind}_token_id", None) for kind in kinds)
    return {number for number in ids if number is not None}


def _context(model: HookedModel) -> int | None:
    """Return the number of tokens after which ``to_tokens`` cuts a text; None for no limit."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    limit = getattr(model.cfg, "n_ctx", None) or getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit and limit < _NO_LIMIT else None


def _n_positions(model: HookedModel) -> int | float:
    """How many positions a model has learned an embedding of; infinity if it computes them.

    ``cfg.n_ctx``, which users may raise, does not change the table of embeddings.
    """
    table = getattr(getattr(model, "pos_embed", None), "W_pos", None)
    kind = getattr(model.cfg, "positional_embedding_type", None)
    if table is None or kind not in ("standard", "shortformer"):
        return float("inf")
    config = getattr(getattr(model, "original_model", None), "config", None)
    # OPT's table has two rows more than positions.
    return min(len(table), getattr(config, "max_position_embeddings", None) or float("inf"))


def check_context(
    model: HookedModel, n_tokens: int, what: str, remedy: str = "Shorten it."
) -> None:
    """Raise if a text exceeds the model's context.

    Args:
        model: The model.
        n_tokens: The number of tokens of the text.
        what: The text's name in the message.
        remedy: The remedy in the message.

    Raises:
        ModulesError: If the text does not fit the model's context.
    """
    limit = min(_context(model) or float("inf"), _n_positions(model))
    if n_tokens > limit:
        raise ModulesError(
            f"{what} should fit the model's context of {limit} tokens; it has {n_tokens}. {remedy}"
        )


def check_tokenizer(model: HookedModel) -> None:
    """Raise unless a model can tokenise texts.

    Raises:
        ModulesError: If the object is no hooked model, or has no tokenizer.
    """
    check_model(model)
    if hasattr(model, "tokenizer") and getattr(model, "tokenizer", None) is None:
        raise ModulesError(
            "The model should have a tokenizer to read prompts; it has none. Load the model with a "
            "tokenizer, or run your own tokens and add the caches to a Collector."
        )


def tokenise(
    model: HookedModel, prompts: Sequence[str], max_tokens: int | None = None, least: int = 1
) -> list[Int[torch.Tensor, " _pos"]]:
    """Tokenise prompts with the model's own ``to_tokens`` (with BOS if the model prepends it).

    No padding is added, and the tokenizer's padding side does not matter. Long texts are tokenised
    whole before the cut, in a second or two per megabyte. A prompt that starts with BOS gets no
    second one, and a prompt longer than the model's context is cut; a warning reports each, once
    per public call.

    Args:
        model: The model.
        prompts: The prompts.
        max_tokens: Cut prompts after this many tokens, including BOS.
        least: The smallest number of tokens of a prompt after the cut; predicting one needs 2.

    Returns:
        One tensor per prompt.

    Raises:
        ModulesError: If the model has no tokenizer, or a prompt has no tokens (besides BOS), fewer
            than ``least``, or more than the model has positions.
    """
    check_tokenizer(model)
    if max_tokens is not None:
        check_at_least("max_tokens", max_tokens, 1)
    bos = named_ids(getattr(model, "tokenizer", None), "bos")
    token_lists, with_bos, too_long = [], [], {}
    for row, (prompt, read) in enumerate(zip(prompts, read_texts(model, prompts), strict=True)):
        if bos.issuperset(read.tokens.tolist()):
            raise ModulesError(
                f"Every prompt should hold at least one token; prompt {row} ({prompt!r}) has "
                "none. Drop it."
            )
        token_lists.append(read.tokens[:max_tokens])
        if len(token_lists[-1]) < least:
            raise ModulesError(
                f"Every prompt should have at least two tokens, so that one is predicted from "
                f"another; prompt {row} has {len(token_lists[-1])}. Drop it, or raise max_tokens."
            )
        with_bos += [row] * read.has_bos
        if len(token_lists[-1]) < len(read.whole[:max_tokens]):
            too_long[row] = len(read.whole)
    _check_positions(model, token_lists)
    if with_bos:
        _warn_of_bos(model, prompts, with_bos, int(token_lists[with_bos[0]][0]))
    if too_long:
        _warn_of_cuts(model, prompts, too_long)
    return token_lists


def _check_positions(model: HookedModel, token_lists: Sequence[Int[torch.Tensor, " _pos"]]) -> None:
    """Raise for a prompt that has passed a raised ``cfg.n_ctx``, and is too long all the same."""
    longest = _n_positions(model)
    for row, tokens in enumerate(token_lists):
        if len(tokens) > longest:
            raise ModulesError(
                f"A prompt should have at most {longest} tokens, for this model has no more "
                f"learned positions; prompt {row} has {len(tokens)}. Leave model.cfg.n_ctx at "
                f"{longest}, or pass max_tokens={longest}."
            )


def _warn_of_bos(
    model: HookedModel, prompts: Sequence[str], rows: Sequence[int], bos_id: int
) -> None:
    tokenizer: Any = getattr(model, "tokenizer", None)
    bos = tokenizer.decode([bos_id])
    warn_once(
        "bos",
        f"{len(rows)} of {len(prompts)} prompts already start with {bos!r}, as a rendered chat "
        f"template does; the first is prompt {rows[0]} ({_start(prompts[rows[0]])}). No second "
        f"{bos!r} is added. Remove it from the text, which gives the same tokens, or pass plain "
        "prompts (and chat=True to collect).",
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

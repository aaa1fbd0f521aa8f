"""Tokenise many texts by one call of the tokenizer, with the ids that ``to_tokens`` gives each.

TransformerLens' ``to_tokens`` pads several texts to one length, so that it is asked for one text at
a time, which takes several times as long as the tokenizer itself. It does a few simple things to a
text and to its ids. A recipe repeats them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from tl_modules.models.hooked_model import HookedModel

TokenIds = list[list[int]]

_WORTHWHILE = 16
"""Fewer texts than this are tokenised one by one: a recipe has to be tried out first."""

_TOGETHER = 1000
"""Texts in one call of the tokenizer, which holds each text's ids, offsets and masks meanwhile."""


@dataclass(frozen=True)
class _Recipe:
    """What ``to_tokens`` does beside the tokenizer, without padding and truncation."""

    prefix: str
    """What it puts before the text: the BOS of a tokenizer that adds none."""

    n_dropped: int
    """How many ids it drops at the beginning: a BOS that the tokenizer adds and nobody wants."""

    ends: frozenset[int]
    """Ids that it drops at the end, but for the first id of all: an EOS that the tokenizer adds."""

    def ids(self, tokenizer: Any, texts: Sequence[str]) -> TokenIds:
        """The ids of some texts."""
        encoded = tokenizer(
            [self.prefix + text for text in texts],
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # without a word that a text is longer than the model's context
        )
        return [self._kept(ids)[self.n_dropped :] for ids in encoded["input_ids"]]

    def _kept(self, ids: list[int]) -> list[int]:
        end = len(ids)
        while end > 1 and ids[end - 1] in self.ends:
            end -= 1
        return ids[:end]


def tokenised_together(model: HookedModel, texts: Sequence[str]) -> TokenIds | None:
    """Tokenise texts by calls of the tokenizer for many texts each.

    Args:
        model: The model.
        texts: The texts.

    Returns:
        The ids that ``model.to_tokens(text, truncate=False)`` gives each text; None if there are
        few texts, if ``to_tokens`` is not TransformerLens' own, or if no recipe repeats it on some
        trial texts, so that each text has to be tokenised alone.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    is_known = getattr(model.to_tokens, "__module__", "").startswith("transformer_lens.")
    if len(texts) < _WORTHWHILE or tokenizer is None or not is_known:
        return None
    recipe = _recipe_of(model, tokenizer, texts)
    if recipe is None:
        return None
    found: TokenIds = []
    for start in range(0, len(texts), _TOGETHER):
        found += recipe.ids(tokenizer, texts[start : start + _TOGETHER])
    return found


def _recipe_of(model: HookedModel, tokenizer: Any, texts: Sequence[str]) -> _Recipe | None:
    """The recipe that repeats ``to_tokens`` on some trial texts."""
    with warnings.catch_warnings():
        # Some tokenizers warn of texts that end with EOS; the users' texts may not.
        warnings.simplefilter("ignore")
        try:
            return _tried(model, tokenizer, texts)
        except (ValueError, TypeError, IndexError, RuntimeError):  # of a trial text
            return None


def _tried(model: HookedModel, tokenizer: Any, texts: Sequence[str]) -> _Recipe | None:
    bos, eos = (getattr(tokenizer, f"{kind}_token", None) or "" for kind in ("bos", "eos"))
    words = texts[0][:40]
    trials = [words, "", f"{bos}{words}", f"{words}{eos}", f"{words}{eos}{eos}", texts[-1][:40]]
    wanted = [model.to_tokens(text, truncate=False)[0].tolist() for text in trials]
    ends = frozenset({tokenizer.eos_token_id} - {None})
    for prefix, n_dropped, dropped in product(("", bos), (0, 1), (frozenset[int](), ends)):
        recipe = _Recipe(prefix, n_dropped, dropped)
        if recipe.ids(tokenizer, trials) == wanted:
            return recipe
    return None

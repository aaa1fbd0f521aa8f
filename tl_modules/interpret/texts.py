"""Texts of tokens, and what cannot be found out about a model."""

from collections.abc import Sequence
from typing import Any

from tl_modules.errors import ModulesError
from tl_modules.model import HookedModel, model_name


class NotReadable(ModulesError):
    """A part of an interpretation that this model, or these modules, cannot give."""


def text_of(model: HookedModel, tokens: Sequence[int]) -> str:
    """The text of some tokens, special ones left out.

    Raises:
        NotReadable: If the model has no tokenizer.
    """
    return tokenizer_of(model).decode(list(tokens), skip_special_tokens=True)


def tokenizer_of(model: HookedModel) -> Any:
    """The model's tokenizer.

    Raises:
        NotReadable: If there is none.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise NotReadable(
            f"Tokens' texts need a tokenizer; {model_name(model)!r} has none. Load it with one."
        )
    return tokenizer

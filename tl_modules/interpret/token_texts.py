"""Texts of tokens, and what cannot be found out about a model."""

from collections.abc import Sequence
from typing import Any

from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import HookedModel, model_name

BROKEN = "\ufffd"  # what a decoder gives for a part of a character


class NotReadable(ModulesError):
    """A part of an interpretation that this model, or these modules, cannot give."""


def text_of(model: HookedModel, tokens: Sequence[int]) -> str:
    """The text of some tokens, special ones left out.

    Raises:
        NotReadable: If the model has no tokenizer.
    """
    return tokenizer_of(model).decode(list(tokens), skip_special_tokens=True)


def pieces_of(model: HookedModel, tokens: Sequence[int]) -> list[str]:
    """Each token's own part of the text, special ones by their names.

    A character of several tokens stands at the last of them; tokenizers that trim spaces at the
    beginning are asked about each token together with the one before.

    Raises:
        NotReadable: If the model has no tokenizer.
    """
    tokenizer = tokenizer_of(model)
    special = special_tokens(model)
    pieces = []
    start = read = 0
    for end, token in enumerate(tokens, 1):
        before, text = (text_of(model, tokens[start:stop]) for stop in (read, end))
        if token in special:
            pieces.append(str(tokenizer.convert_ids_to_tokens(token)))
        elif text.endswith(BROKEN) and end < len(tokens):
            pieces.append("")
            continue
        else:
            pieces.append(text[len(before) :])
        start, read = read, end
    return pieces


def special_tokens(model: HookedModel) -> set[int]:
    """The tokenizer's special tokens, such as BOS.

    Raises:
        NotReadable: If the model has no tokenizer.
    """
    return set(getattr(tokenizer_of(model), "all_special_ids", ()))


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

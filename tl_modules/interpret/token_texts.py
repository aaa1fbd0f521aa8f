"""Decode tokens to text, and the error for an interpretation that a model does not allow."""

from collections.abc import Sequence
from typing import Any

from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import HookedModel, model_name

BROKEN = "\ufffd"  # a decoder's output for a part of a character


class NotReadable(ModulesError):
    """Raised if the model or the modules lack something that part of an interpretation needs."""


def text_of(model: HookedModel, tokens: Sequence[int]) -> str:
    """Decode tokens to text, without special tokens.

    Raises:
        NotReadable: If the model has no tokenizer.
    """
    return tokenizer_of(model).decode(list(tokens), skip_special_tokens=True)


def pieces_of(model: HookedModel, tokens: Sequence[int]) -> list[str]:
    """Split the text into one piece per token; a special token's piece is its name.

    A character of several tokens belongs to the last of them. Each token is decoded together with
    the previous one, because some tokenizers trim leading spaces.

    Raises:
        NotReadable: If the model has no tokenizer.
    """
    tokenizer = tokenizer_of(model)
    special = skipped_ids(model)
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


def skipped_ids(model: HookedModel) -> set[int]:
    """Return the ids that ``text_of`` leaves out: all of the tokenizer's special tokens, UNK too.

    Raises:
        NotReadable: If the model has no tokenizer.
    """
    return set(getattr(tokenizer_of(model), "all_special_ids", ()))


def tokenizer_of(model: HookedModel) -> Any:
    """Return the model's tokenizer.

    Raises:
        NotReadable: If the model has none.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise NotReadable(
            f"Decoding tokens needs a tokenizer; {model_name(model)!r} has none. Load the model "
            "with a tokenizer."
        )
    return tokenizer

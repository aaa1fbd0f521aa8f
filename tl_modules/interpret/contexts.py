"""Find the tokens that drive a module most, with the text around them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tl_modules.interpret.token_texts import BROKEN, skipped_ids, text_of
from tl_modules.interpret.values_by_token import run_values
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.tokens import tokenise
from tl_modules.modules.module_set import ModuleSet
from tl_modules.modules.topic import Context

_LONGEST_CHARACTER = 4
"""A character has at most this many bytes in UTF-8, and so at most this many tokens."""

_N_AROUND = 8
"""The number of context tokens kept on either side."""


def top_contexts(
    model: HookedModel,
    modules: ModuleSet,
    prompts: Sequence[Sequence[str]],
    *,
    n_contexts: int = 8,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    progress: bool = True,
) -> list[tuple[Context, ...]]:
    """Find the tokens that activate each module most in its own prompts.

    ``token_values`` defines a token's value. Special tokens and each prompt's first token are left
    out.

    Args:
        model: The model that the modules were discovered in.
        modules: The modules.
        prompts: One list of prompts per module.
        n_contexts: The largest number of tokens per module; a token counts once per prompt.
        batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Cut prompts after this many tokens.
        progress: Show a progress bar.

    Returns:
        The tokens of each module, strongest first.

    Raises:
        ModulesError: If the modules hold no activation means, the model has no tokenizer, a prompt
            has no tokens, or an activation is NaN or infinite.
    """
    special = skipped_ids(model)
    owners = [(label, place) for label, texts in enumerate(prompts) for place in range(len(texts))]
    token_lists = tokenise(model, [prompt for texts in prompts for prompt in texts], max_tokens)
    contexts: list[list[tuple[Context, int]]] = [[] for _ in modules]
    for number, values in run_values(model, modules, token_lists, batch_size, progress=progress):
        label, place = owners[number]
        tokens, module_values = token_lists[number].tolist(), values[:, label]
        contexts[label] += [
            (_context(model, tokens, position, float(module_values[position]), place), number)
            for position in _candidates(tokens, module_values, special, n_contexts)
        ]
    # Prompts run longest first. Sorting by number as well makes ties independent of that order.
    ranked = [sorted(pairs, key=lambda pair: (-pair[0].value, pair[1])) for pairs in contexts]
    return [tuple(context for context, _ in pairs[:n_contexts]) for pairs in ranked]


def _candidates(
    tokens: list[int], values: Float[np.ndarray, " _pos"], special: set[int], n_contexts: int
) -> list[int]:
    """Return the positions of a prompt's strongest tokens, each distinct token once."""
    best: dict[int, int] = {}
    for position in np.argsort(-values, kind="stable").tolist():
        if position > 0 and values[position] > 0 and tokens[position] not in special:
            best.setdefault(tokens[position], position)
    return list(best.values())[:n_contexts]


def _context(
    model: HookedModel, tokens: list[int], position: int, value: float, prompt: int
) -> Context:
    start, end = _whole(model, tokens, position)
    token = text_of(model, tokens[start:end])
    # The window may start or end inside a character, which decodes to a replacement character.
    before = text_of(model, tokens[max(start - _N_AROUND, 0) : start]).lstrip(BROKEN)
    after = text_of(model, tokens[end : end + _N_AROUND]).rstrip(BROKEN)
    return Context(before, token, after, value, prompt)


def _whole(model: HookedModel, tokens: list[int], position: int) -> tuple[int, int]:
    """Return the shortest span around a token that decodes to whole characters."""
    for length in range(1, _LONGEST_CHARACTER + 1):
        for start in range(max(position - length + 1, 0), position + 1):
            if BROKEN not in text_of(model, tokens[start : start + length]):
                return start, start + length
    return position, position + 1

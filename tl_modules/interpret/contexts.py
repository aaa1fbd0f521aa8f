"""The tokens that drive a module, in context."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tl_modules.interpret.token_texts import BROKEN, special_tokens, text_of
from tl_modules.interpret.values_by_token import run_values
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.tokens import tokenise
from tl_modules.modules.module_set import ModuleSet
from tl_modules.modules.topic import Context

_LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so tokens."""

_N_AROUND = 8
"""How many tokens of context are kept on either side."""


def top_contexts(
    model: HookedModel,
    modules: ModuleSet,
    prompts: Sequence[Sequence[str]],
    *,
    n_contexts: int = 8,
    batch_size: int = 16,
    max_tokens: int | None = None,
    progress: bool = True,
) -> list[tuple[Context, ...]]:
    """Find each module's top-activating tokens in some prompts.

    A token's value is as in ``token_values``. Left out are special tokens and each prompt's first.

    Args:
        model: The model that the modules were discovered in.
        modules: The modules.
        prompts: Each module's prompts.
        n_contexts: At most so many tokens a module, each text once a prompt.
        batch_size: Prompts in a forward pass.
        max_tokens: Cut prompts after so many tokens.
        progress: Show a progress bar.

    Returns:
        Each module's tokens, strongest first.

    Raises:
        ModulesError: If the modules were discovered from no activations, the model has no
            tokenizer, a prompt tokenises to nothing, or an activation is NaN or infinite.
    """
    special = special_tokens(model)
    owners = [(label, at) for label, own in enumerate(prompts) for at in range(len(own))]
    token_lists = tokenise(model, [prompt for own in prompts for prompt in own], max_tokens)
    found: list[list[tuple[Context, int]]] = [[] for _ in modules]
    for number, values in run_values(model, modules, token_lists, batch_size, progress=progress):
        label, at = owners[number]
        tokens, own = token_lists[number].tolist(), values[:, label]
        found[label] += [
            (_context(model, tokens, position, float(own[position]), at), number)
            for position in _candidates(tokens, own, special, n_contexts)
        ]
    # Equal ones in the order of the prompts.
    found = [sorted(own, key=lambda pair: (-pair[0].value, pair[1])) for own in found]
    return [tuple(context for context, _ in own[:n_contexts]) for own in found]


def _candidates(
    tokens: list[int], values: Float[np.ndarray, " _pos"], special: set[int], n_contexts: int
) -> list[int]:
    """The positions of a prompt's strongest tokens, each token once."""
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
    # The window's own ends may cut a character.
    before = text_of(model, tokens[max(start - _N_AROUND, 0) : start]).lstrip(BROKEN)
    after = text_of(model, tokens[end : end + _N_AROUND]).rstrip(BROKEN)
    return Context(before, token, after, value, prompt)


def _whole(model: HookedModel, tokens: list[int], position: int) -> tuple[int, int]:
    """Where the characters start and end that a token is a part of; the token alone as a rule."""
    for length in range(1, _LONGEST_CHARACTER + 1):
        for start in range(max(position - length + 1, 0), position + 1):
            if BROKEN not in text_of(model, tokens[start : start + length]):
                return start, start + length
    return position, position + 1

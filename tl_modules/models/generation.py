"""Generate text with a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int

from tl_modules.errors import ModulesError
from tl_modules.models.content_tokens import special_token_ids
from tl_modules.models.hooked_model import HookedModel, check_causal, model_name


def continued(
    model: HookedModel,
    tokens: Int[torch.Tensor, " _pos"],
    n_new_tokens: int,
    *,
    remedy: str,
    temperature: float = 0.0,
    seed: int = 0,
) -> Int[torch.Tensor, " _longer"]:
    """Continue a prompt with tokens that the model generates.

    Args:
        model: The model.
        tokens: The prompt's tokens.
        n_new_tokens: The largest number of new tokens; the model may stop sooner.
        remedy: The remedy in the error for a model that cannot generate.
        temperature: The temperature of sampling; 0 takes the likeliest token.
        seed: Seeds the sampling; PyTorch's global generators keep their state.

    Returns:
        The prompt's tokens followed by the new tokens.

    Raises:
        ModulesError: If the model has no ``generate``, is not causal, or its context is too short.
    """
    options = {"remedy": remedy, "temperature": temperature, "seed": seed}
    # One prompt at a time: padding on the left would need a mask that not every model supports.
    return generated_rows(model, tokens[None], n_new_tokens, **options)[0]


def generated_rows(
    model: HookedModel,
    tokens: Int[torch.Tensor, "_rows _pos"],
    n_new_tokens: int,
    *,
    remedy: str,
    temperature: float = 0.0,
    seed: int = 0,
) -> Int[torch.Tensor, "_rows _longer"]:
    """Continue several prompts of equal length, which need no padding.

    Args:
        model: The model.
        tokens: The prompts' tokens.
        n_new_tokens: See ``continued``.
        remedy: See ``continued``.
        temperature: See ``continued``. Sampled rows draw from one stream: what a row says depends
            on its place.
        seed: See ``continued``.

    Returns:
        The tokens of each row. A row that ends before the others is filled up; see ``up_to_end``.

    Raises:
        ModulesError: As in ``continued``.
    """
    check_causal(model, "Generation")
    loose: Any = model
    if not hasattr(loose, "generate"):
        raise ModulesError(f"Generation needs generate(); {model_name(model)!r} has none. {remedy}")
    longest = getattr(model.cfg, "n_ctx", None) or float("inf")
    if tokens.shape[1] + n_new_tokens > longest:
        raise ModulesError(
            f"A prompt and its new tokens should fit the model's context of {longest} tokens; "
            f"got {tokens.shape[1]} and n_new_tokens={n_new_tokens}. Shorten the prompt, or lower "
            "n_new_tokens."
        )
    options: dict[str, Any] = {"do_sample": temperature > 0, "verbose": False}
    if temperature > 0:
        options["temperature"] = temperature
    given = tokens.to(getattr(model.cfg, "device", None))
    with _seeded(seed, given.device):
        generated = loose.generate(given, max_new_tokens=n_new_tokens, **options)
    return generated.long().cpu()


def up_to_end(
    model: HookedModel, tokens: Int[torch.Tensor, " _pos"], start: int
) -> Int[torch.Tensor, " _shorter"]:
    """Cut generated tokens after the first special one, which ends a text.

    Args:
        model: The model, whose tokenizer names the special tokens.
        tokens: A prompt's tokens, followed by those that the model generated.
        start: The number of the prompt's tokens.
    """
    special = special_token_ids(getattr(model, "tokenizer", None))
    new = tokens[start:].tolist()
    end = next((place for place, token in enumerate(new, 1) if token in special), len(new))
    return tokens[: start + end]


def decoded(model: HookedModel, tokens: Int[torch.Tensor, " _pos"]) -> str:
    """The text of some tokens, without special ones.

    Raises:
        ModulesError: If the model has no tokenizer.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ModulesError(
            f"A tokenizer is needed to read what the model writes; {model_name(model)!r} has none. "
            "Load the model with a tokenizer."
        )
    return tokenizer.decode(tokens.tolist(), skip_special_tokens=True)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators that generate() draws from, and restore their state afterwards.

    ``torch.manual_seed`` would seed the generators of every device.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

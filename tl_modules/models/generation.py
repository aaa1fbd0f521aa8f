"""Generate text with a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int

from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import HookedModel, check_causal, model_name
from tl_modules.models.tokens import named_ids


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
    check_room(model, tokens.shape[1], n_new_tokens)
    options: dict[str, Any] = {"do_sample": temperature > 0, "verbose": False}
    ends = sorted(end_tokens(model))
    options |= {"eos_token_id": ends} if ends else {"stop_at_eos": False}
    if temperature > 0:
        options["temperature"] = temperature
    given = tokens.to(getattr(model.cfg, "device", None))
    with _seeded(seed, given.device):
        generated = loose.generate(given, max_new_tokens=n_new_tokens, **options)
    return generated.long().cpu()


def check_room(model: HookedModel, n_tokens: int, n_new_tokens: int) -> None:
    """Refuse a text that the model's context cannot hold.

    Args:
        model: The model.
        n_tokens: The number of the prompt's tokens.
        n_new_tokens: The largest number of tokens after them.

    Raises:
        ModulesError: If the context is shorter.
    """
    longest = getattr(model.cfg, "n_ctx", None) or float("inf")
    if n_tokens + n_new_tokens > longest:
        raise ModulesError(
            f"A prompt and its new tokens should fit the model's context of {longest} tokens; "
            f"got {n_tokens} and n_new_tokens={n_new_tokens}. Shorten the prompt, or lower "
            "n_new_tokens."
        )


def end_tokens(model: HookedModel) -> set[int]:
    """The ids of the tokens that end a generated text; every cut of such a text goes by them.

    They are EOS and padding. EOS is the tokenizer's, and what the model's configuration and its
    generation config name, such as a chat model's end of a turn. All other special tokens stand in
    the text: UNK for a part of it, BOS or a chat template's tokens between its parts.

    Args:
        model: The model.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    original: Any = getattr(model, "original_model", None)
    ends = named_ids(tokenizer, "eos", "pad")
    for config in (model.cfg, getattr(original, "generation_config", None)):
        named: Any = getattr(config, "eos_token_id", None)
        listed = named if isinstance(named, list | tuple) else [named]
        ends |= {int(token) for token in listed if token is not None}
    unknown = getattr(tokenizer, "unk_token", None)
    if unknown != getattr(tokenizer, "eos_token", None):  # in GPT-2 one token is both
        # A token that the vocabulary lacks has the id of UNK.
        ends -= named_ids(tokenizer, "unk")
    return ends


def text_end(model: HookedModel, tokens: Int[torch.Tensor, " _pos"], start: int) -> int:
    """The number of tokens of a prompt and the text that follows, without the token that ends it.

    Args:
        model: The model, whose ``end_tokens`` count.
        tokens: A prompt's tokens, followed by those that the model generated.
        start: The number of the prompt's tokens.
    """
    ends, ids = end_tokens(model), tokens.tolist()
    return next((place for place in range(start, len(ids)) if ids[place] in ends), len(ids))


def up_to_end(
    model: HookedModel, tokens: Int[torch.Tensor, " _pos"], start: int
) -> Int[torch.Tensor, " _shorter"]:
    """Cut generated tokens after the one that ends the text; see ``text_end``.

    The end is kept, because the model wrote it too.
    """
    return tokens[: text_end(model, tokens, start) + 1]


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

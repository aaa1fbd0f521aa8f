"""What a model writes after a text."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int

from tl_modules.errors import ModulesError
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
    """A prompt's tokens, and those that the model writes after them.

    Args:
        model: The model.
        tokens: The prompt's.
        n_new_tokens: Tokens to write at most; the model may end sooner.
        remedy: What to do where the model cannot write.
        temperature: Of sampling; 0 takes the likeliest token each time.
        seed: Seeds the sampling; PyTorch's own generators are as before afterwards.

    Returns:
        The tokens.

    Raises:
        ModulesError: If the model has no ``generate`` or is not causal, or its context no room.
    """
    check_causal(model, "Generation")
    loose: Any = model
    if not hasattr(loose, "generate"):
        raise ModulesError(f"{model_name(model)!r} has no generate() to write with. {remedy}")
    longest = getattr(model.cfg, "n_ctx", None) or float("inf")
    if len(tokens) + n_new_tokens > longest:
        raise ModulesError(
            f"A prompt and what is written after it should fit the model's context of {longest} "
            f"tokens; got {len(tokens)} and n_new_tokens={n_new_tokens}. Shorten one."
        )
    options: dict[str, Any] = {"do_sample": temperature > 0, "verbose": False}
    if temperature > 0:
        options["temperature"] = temperature
    given = tokens[None].to(getattr(model.cfg, "device", None))
    with _seeded(seed, given.device):
        found = loose.generate(given, max_new_tokens=n_new_tokens, **options)
    return found[0].long().cpu()


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators that generate() draws from, and put them back afterwards.

    Not by ``torch.manual_seed``, which seeds every device there is.
    """
    own = [torch.default_generator]
    if device.type == "cuda":
        own.append(torch.cuda.default_generators[device.index or 0])
    elif device.type == "mps":
        own.append(torch.mps._get_default_mps_generator())
    states = [generator.get_state() for generator in own]
    try:
        for generator in own:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)

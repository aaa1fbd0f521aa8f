"""Find the tokens that single units promote and suppress (a logit lens)."""

import numpy as np
import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tl_modules.interpret.lens import Written, chance, written
from tl_modules.interpret.token_texts import tokenizer_of
from tl_modules.interpret.write_vectors import direct_logits, write_vectors
from tl_modules.models.hooked_model import HookedModel
from tl_modules.units import Units

N_AT_ONCE = 256
"""Units whose logits are computed together: about 50 MB with 50,000 tokens."""


def unit_tokens(
    model: HookedModel,
    units: Units,
    signs: Int[np.ndarray, " units"],
    *,
    n_tokens: int,
    n_controls: int,
    seed: int,
    progress: bool,
) -> list[Written]:
    """Read what each unit writes through the unembedding, beside random directions.

    A unit's direction is its write vector, turned round where its activations are negative. A
    random direction is a sum of all write vectors of the same hook point with random weights (a
    standard normal distribution). Tokens are ordered as in ``written_tokens``.

    Args:
        model: The model.
        units: Units of one coordinate each.
        signs: 1 or -1 per unit: the sign of the activations to read.
        n_tokens: The largest number of promoted tokens, and of suppressed tokens.
        n_controls: Random directions per hook point, at least 3.
        seed: Seeds the random directions.
        progress: Show a progress bar.

    Returns:
        The tokens of each unit.

    Raises:
        NotReadable: If the write vectors are unknown, or the model lacks weights or a tokenizer.
    """
    n_vocab = len(tokenizer_of(model))  # some models pad the vocabulary: those rows have no token
    found = [Written()] * len(units)
    at_hook = {int(hook): at for hook, at in units.by_hook()}
    with (
        torch.inference_mode(),
        tqdm(total=len(units), desc="lens", unit="unit", disable=not progress) as bar,
    ):
        for hook, vectors in enumerate(write_vectors(model, units)):
            at = at_hook.get(hook, np.empty(0, dtype=np.int64))
            if not len(at):
                continue
            controls = _random(model, vectors, n_controls, (seed, hook))[:, :n_vocab]
            chance_z = chance(controls)
            for start in range(0, len(at), N_AT_ONCE):
                chosen = at[start : start + N_AT_ONCE]
                turned = torch.from_numpy(signs[chosen])[:, None].to(vectors)
                directions = vectors[torch.from_numpy(units.index[chosen]).long()] * turned
                logits = direct_logits(model, directions)[:, :n_vocab].cpu().numpy()
                for place, row in zip(chosen.tolist(), logits, strict=True):
                    found[place] = written(model, row, controls, chance_z, n_tokens)
                bar.update(len(chosen))
    return found


def _random(
    model: HookedModel,
    vectors: Float[torch.Tensor, "coordinates d_model"],
    n_controls: int,
    seed: tuple[int, int],
) -> Float[np.ndarray, "directions d_vocab"]:
    """The logits of random directions of a hook point."""
    weights = np.random.default_rng(seed).standard_normal((n_controls, len(vectors)))
    directions = torch.from_numpy(weights).to(vectors) @ vectors
    return direct_logits(model, directions).cpu().numpy()

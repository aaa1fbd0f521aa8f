"""Find the tokens that a module's output direction promotes and suppresses (a logit lens)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_modules.errors import check_at_least, check_seed
from tl_modules.interpret.token_texts import NotReadable, text_of, tokenizer_of
from tl_modules.interpret.write_vectors import direct_logits, unembedding, write_vectors
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module_set import ModuleSet
from tl_modules.modules.topic import WrittenToken


@dataclass(frozen=True)
class Written:
    """The tokens that a module's output direction promotes and suppresses."""

    promoted: tuple[WrittenToken, ...] = ()
    """The tokens whose logits the direction raises, largest z first."""

    suppressed: tuple[WrittenToken, ...] = ()
    """The tokens whose logits the direction lowers, largest |z| first."""

    chance_z: float | None = None
    """The largest |z| that any random direction reaches against the others. With 20 random
    directions, about one module in 20 exceeds this value by chance."""


def written_tokens(
    model: HookedModel,
    modules: ModuleSet,
    *,
    n_tokens: int = 10,
    n_controls: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> list[Written]:
    """Read each module's output direction through the unembedding (a logit lens).

    The direction is a sum over the module's units. Each unit adds its write vector (a row of
    ``W_out`` or ``W_O``; for ``resid``, the dimension itself) times its mean signed activation
    times its membership score. A score below 0 counts as 0; without scores every unit counts 1.

    The direction passes the model's final norm and ``W_U`` as if it were the whole residual stream.
    That is an approximation: in a run the norm divides by the length of the whole stream, and later
    layers read what earlier layers wrote. Only the tokens' order and z are meaningful.

    Every direction promotes some tokens, so tokens are ordered by z: the distance of a token's
    logit from the mean of ``n_controls`` random directions, in standard deviations. The median of
    these deviations over the tokens is added to each of them (Tusher et al. 2001); otherwise tokens
    of small deviation would come first by chance. A random direction consists of random units of
    the same layers, which get the module's scores and keep their own means.

    Args:
        model: The model that the modules were discovered in.
        modules: The modules.
        n_tokens: The largest number of promoted tokens, and of suppressed tokens.
        n_controls: Random directions per module, at least 3.
        seed: Seeds the random directions.
        progress: Show a progress bar.

    Returns:
        The promoted and suppressed tokens of each module. Both are empty if the module's units
        write nothing, or if all random directions are equal.

    Raises:
        ModulesError: If the modules hold no means, the write vectors of their units are unknown
            (latents of SAEs), or the model has no tokenizer or lacks the weights.
    """
    check_at_least("n_controls", n_controls, 3)
    check_seed(seed)
    tokenizer = tokenizer_of(model)
    with torch.inference_mode():
        directions = _directions(model, modules, n_controls, seed)
        per_module = []
        for of_module in tqdm(directions, desc="lens", unit="module", disable=not progress):
            # Some models pad the vocabulary: rows after the tokenizer's have no token.
            logits = direct_logits(model, of_module)[:, : len(tokenizer)]
            of_module_alone, controls = logits[0].cpu().numpy(), logits[1:].cpu().numpy()
            per_module.append(written(model, of_module_alone, controls, chance(controls), n_tokens))
    return per_module


def _directions(
    model: HookedModel, modules: ModuleSet, n_controls: int, seed: int
) -> Float[torch.Tensor, "modules directions d_model"]:
    """Return each module's direction, followed by its random directions."""
    if modules.unit_means is None:
        raise NotReadable(
            "An output direction needs the units' mean activations; these modules hold none. "
            "Discover modules in activations that collect() gathered."
        )
    units = modules.units
    scores = np.ones(len(units)) if modules.unit_scores is None else modules.unit_scores.clip(0)
    # One generator per module: a module's controls do not depend on the other modules.
    generators = [np.random.default_rng((seed, module)) for module in range(modules.n_modules)]
    total = torch.zeros(modules.n_modules, 1 + n_controls, unembedding(model).shape[0])
    first_unit = first_coordinate = 0
    writers = write_vectors(model, units)
    for write, width, span in zip(writers, units.widths, units.spans, strict=True):
        here = slice(first_unit, first_unit + width)
        means = modules.unit_means[first_coordinate : first_coordinate + width * span]
        for module, generator in enumerate(generators):
            members = np.where(modules.unit_labels[here] == module, scores[here], 0)
            shuffled = generator.permuted(np.tile(members, (n_controls, 1)), axis=1)
            weights = np.repeat(np.concatenate([members[None], shuffled]), span, axis=1) * means
            total[module] += (torch.from_numpy(weights).to(write.device, torch.float32) @ write).to(
                total
            )
        first_unit += width
        first_coordinate += width * span
    return total


def written(
    model: HookedModel,
    logits: Float[np.ndarray, " d_vocab"],
    controls: Float[np.ndarray, "directions d_vocab"],
    chance_z: float,
    n_tokens: int,
) -> Written:
    """Take the tokens of a direction that differ most from the controls, both ways.

    Args:
        model: The model.
        logits: The direction's logits.
        controls: Those of random directions.
        chance_z: What ``chance`` returned of them.
        n_tokens: The largest number of tokens each way.

    Returns:
        The tokens; none if the direction is 0.
    """
    if not logits.any():
        return Written()
    z = _z(logits, controls)
    order = np.argsort(-z, kind="stable")

    def tokens(ids: np.ndarray) -> tuple[WrittenToken, ...]:
        return tuple(
            WrittenToken(text_of(model, [int(token)]), float(logits[token]), float(z[token]))
            for token in ids
        )

    up, down = order[:n_tokens], order[::-1][:n_tokens]
    return Written(tokens(up[z[up] > 0]), tokens(down[z[down] < 0]), chance_z)


def chance(controls: Float[np.ndarray, "directions d_vocab"]) -> float:
    """The largest |z| of any random direction against the others: without any real direction."""
    largest = [
        np.abs(_z(control, np.delete(controls, row, axis=0))).max()
        for row, control in enumerate(controls)
    ]
    return float(np.max(largest))


def _z(
    logits: Float[np.ndarray, " d_vocab"], controls: Float[np.ndarray, "directions d_vocab"]
) -> Float[np.ndarray, " d_vocab"]:
    """Measure how far one direction's logits lie from the controls', in standard deviations."""
    deviation = controls.std(axis=0, ddof=1)
    deviation = deviation + np.median(deviation)
    differ = deviation > 1e-5 * np.abs(logits).max()  # a smaller deviation is rounding
    distance = logits - controls.mean(axis=0)
    return np.divide(distance, deviation, out=np.zeros_like(logits), where=differ)

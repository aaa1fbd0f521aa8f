"""The tokens that a module's output direction promotes and suppresses: a logit lens."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_modules.errors import check_at_least, check_seed
from tl_modules.interpret.token_texts import NotReadable, text_of, tokenizer_of
from tl_modules.models.hooked_model import HookedModel, model_name
from tl_modules.modules.module_set import ModuleSet
from tl_modules.modules.topic import WrittenToken
from tl_modules.units import SITES


@dataclass(frozen=True)
class Written:
    """What a module's output direction does to the tokens' logits."""

    promoted: tuple[WrittenToken, ...] = ()
    """The tokens that it makes likelier, clearest first."""

    suppressed: tuple[WrittenToken, ...] = ()
    """The tokens that it makes unlikelier, clearest first."""

    chance_z: float | None = None
    """The clearest |z| of any random direction held against the other ones: with 20 of them, one
    module in twenty passes it by chance."""


_WEIGHTS: Mapping[str, tuple[str, str, str]] = {
    SITES["mlp"].pattern: ("mlp", "W_out", "ln2_post"),
    SITES["attn_z"].pattern: ("attn", "W_O", "ln1_post"),
}
"""What writes a hook point's units into the residual stream: the part of a layer, its weights, and
the norm that some models put between the two."""


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

    The direction is the sum over the module's units of what each writes to the residual stream
    (rows of ``W_out`` or ``W_O``; of ``resid``, the dimension itself), times its mean (signed)
    activation, times its membership score (below 0 counts as 0; 1 where there are no scores).

    It goes through the model's own final norm and ``W_U`` as if it were the whole residual stream.
    That is an approximation: in a run the norm divides by the length of all that is there, and
    later layers read what earlier ones wrote. Only the tokens' order and z mean something.

    Every direction promotes something, so tokens are ordered by z: how far their logit stands out
    of that of ``n_controls`` random directions, in standard deviations (plus their median over
    the tokens, Tusher et al. 2001, or tokens of little spread would lead by chance). A random
    direction is made of random units of the same layers, which take the module's scores and keep
    their own means.

    Args:
        model: The model that the modules were discovered in.
        modules: The modules.
        n_tokens: At most so many promoted, and so many suppressed.
        n_controls: Random directions a module, at least 3.
        seed: Seeds them.
        progress: Show a progress bar.

    Returns:
        Each module's promoted and suppressed tokens; none where its units write nothing, or all
        random units write the same.

    Raises:
        ModulesError: If the modules hold no means, are of units whose write vectors are not known
            (latents of SAEs), or the model has no tokenizer or no such weights.
    """
    check_at_least("n_controls", n_controls, 3)
    check_seed(seed)
    tokenizer = tokenizer_of(model)
    with torch.inference_mode():
        directions = _directions(model, modules, n_controls, seed)
        found = []
        for own in tqdm(directions, desc="lens", unit="module", disable=not progress):
            logits = _logits(model, own)[:, : len(tokenizer)]
            found.append(_written(model, logits.cpu().numpy(), n_tokens))
    return found


def _directions(
    model: HookedModel, modules: ModuleSet, n_controls: int, seed: int
) -> Float[torch.Tensor, "modules directions d_model"]:
    """Each module's direction, then its controls'."""
    if modules.unit_means is None:
        raise NotReadable(
            "An output direction needs the units' mean activations; these modules hold none. "
            "Discover them in activations that collect() gathered."
        )
    units = modules.units
    scores = np.ones(len(units)) if modules.unit_scores is None else modules.unit_scores.clip(0)
    generators = [np.random.default_rng((seed, module)) for module in range(modules.n_modules)]
    total = torch.zeros(modules.n_modules, 1 + n_controls, _unembedding(model).shape[0])
    first_unit = first_coordinate = 0
    writers = _writers(model, modules)
    for write, width, span in zip(writers, units.widths, units.spans, strict=True):
        here = slice(first_unit, first_unit + width)
        means = modules.unit_means[first_coordinate : first_coordinate + width * span]
        for module, generator in enumerate(generators):
            own = np.where(modules.unit_labels[here] == module, scores[here], 0)
            dealt = generator.permuted(np.tile(own, (n_controls, 1)), axis=1)
            weights = np.repeat(np.concatenate([own[None], dealt]), span, axis=1) * means
            total[module] += (torch.from_numpy(weights).to(write.device, torch.float32) @ write).to(
                total
            )
        first_unit += width
        first_coordinate += width * span
    return total


def _writers(
    model: HookedModel, modules: ModuleSet
) -> Iterator[Float[torch.Tensor, "_coordinates _d_model"]]:
    """What each hook point's coordinates write to the residual stream."""
    units = modules.units
    d_model = _unembedding(model).shape[0]
    sizes = zip(units.hook_names, units.layers, units.coordinates().widths, strict=True)
    for name, layer, width in sizes:
        if name == SITES["resid"].pattern.format(layer=layer):
            found = torch.eye(d_model)
        else:
            found = _weights_of(model, name, layer)
        if found.shape != (width, d_model):
            raise NotReadable(
                f"The write vectors of {name!r} should have shape {(width, d_model)}; the model's "
                f"weights have {tuple(found.shape)}."
            )
        yield found


def _weights_of(
    model: HookedModel, name: str, layer: int
) -> Float[torch.Tensor, "_coordinates _d_model"]:
    """The rows of ``W_out`` or ``W_O`` that belong to a hook point's coordinates."""
    written = [entry for pattern, entry in _WEIGHTS.items() if name == pattern.format(layer=layer)]
    if not written:
        raise NotReadable(
            f"What units at {name!r} write to the residual stream is not known; it is for the "
            "sites 'mlp', 'attn_heads', 'attn_z' and 'resid'."
        )
    part, weights, norm = written[0]
    blocks: Any = getattr(model, "blocks", None)
    block = None if blocks is None else blocks[layer]
    if getattr(block, norm, None) is not None:
        raise NotReadable(
            f"{model_name(model)!r} normalises what {name!r} writes before adding it to the "
            f"residual stream ({norm}): its write vectors depend on the prompt."
        )
    found = _tensor(block, part, weights)
    return found.reshape(-1, found.shape[-1]).float()


def _logits(
    model: HookedModel, directions: Float[torch.Tensor, "directions d_model"]
) -> Float[torch.Tensor, "directions d_vocab"]:
    """The centred logits that directions have alone; 0 for one of length 0."""
    unembedding = _unembedding(model)
    lengths = directions.norm(dim=-1, keepdim=True)
    # Of the size of a residual stream whose norm changes nothing, so that its epsilon is small.
    scaled = directions / lengths.clamp_min(1e-30) * directions.shape[-1] ** 0.5
    stream = torch.cat([scaled, torch.zeros_like(scaled[:1])])
    final_norm: Any = getattr(model, "ln_final", None)
    stream = stream.to(unembedding)[None]
    normed = (stream if final_norm is None else final_norm(stream))[0]
    logits = (normed @ unembedding).float()
    logits = logits[:-1] - logits[-1]  # without what the norm's bias does alone
    return logits - logits.mean(dim=-1, keepdim=True)


def _written(
    model: HookedModel, logits: Float[np.ndarray, "directions d_vocab"], n_tokens: int
) -> Written:
    """What stands out of the controls: the first row's clearest tokens, up and down."""
    own, controls = logits[0], logits[1:]
    if not own.any():
        return Written()
    z = _z(own, controls)
    chance = [
        np.abs(_z(control, np.delete(controls, row, axis=0))).max()
        for row, control in enumerate(controls)
    ]
    order = np.argsort(-z, kind="stable")

    def tokens(chosen: np.ndarray) -> tuple[WrittenToken, ...]:
        return tuple(
            WrittenToken(text_of(model, [int(at)]), float(own[at]), float(z[at])) for at in chosen
        )

    up, down = order[:n_tokens], order[::-1][:n_tokens]
    return Written(tokens(up[z[up] > 0]), tokens(down[z[down] < 0]), float(np.max(chance)))


def _z(
    own: Float[np.ndarray, " d_vocab"], controls: Float[np.ndarray, "directions d_vocab"]
) -> Float[np.ndarray, " d_vocab"]:
    """How far one direction's logits stand out of the others'."""
    spread = controls.std(axis=0, ddof=1)
    spread = spread + np.median(spread)
    differ = spread > 1e-5 * np.abs(own).max()  # else it is rounding
    return np.divide(own - controls.mean(axis=0), spread, out=np.zeros_like(own), where=differ)


def _unembedding(model: HookedModel) -> Float[torch.Tensor, "d_model d_vocab"]:
    return _tensor(model, "W_U")


def _tensor(of: Any, *names: str) -> torch.Tensor:
    """A tensor by the names that lead to it."""
    try:
        for name in names:
            of = getattr(of, name)
    except (AttributeError, NotImplementedError) as error:
        raise NotReadable(f"The model exposes no {'.'.join(names)} to read: {error}.") from error
    if not isinstance(of, torch.Tensor):
        raise NotReadable(f"The model exposes no {'.'.join(names)} to read.")
    return of

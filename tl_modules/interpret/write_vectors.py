"""Read what units write to the residual stream, and the logits of directions in it."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float

from tl_modules.interpret.token_texts import NotReadable
from tl_modules.models.hooked_model import HookedModel, model_name
from tl_modules.models.sites import SITES
from tl_modules.units import Units

_WEIGHTS: Mapping[str, tuple[str, str, str]] = {
    SITES["mlp"].pattern: ("mlp", "W_out", "ln2_post"),
    SITES["attn_z"].pattern: ("attn", "W_O", "ln1_post"),
}
"""How a hook point's units are written to the residual stream: the part of the layer, its weights,
and the norm that some models put after it."""


def write_vectors(
    model: HookedModel, units: Units
) -> Iterator[Float[torch.Tensor, "_coordinates _d_model"]]:
    """Yield the write vectors of all coordinates of each hook point.

    Args:
        model: The model.
        units: Units of these hook points.

    Raises:
        NotReadable: If the write vectors are unknown or depend on the prompt, or the model lacks
            the weights.
    """
    d_model = unembedding(model).shape[0]
    sizes = zip(units.hook_names, units.layers, units.coordinates().widths, strict=True)
    for name, layer, width in sizes:
        if name == SITES["resid"].pattern.format(layer=layer):
            vectors = torch.eye(d_model)
        else:
            vectors = _weights_of(model, name, layer)
        if vectors.shape != (width, d_model):
            raise NotReadable(
                f"The write vectors of {name!r} should have shape {(width, d_model)}; the model's "
                f"weights have {tuple(vectors.shape)}."
            )
        yield vectors


def _weights_of(
    model: HookedModel, name: str, layer: int
) -> Float[torch.Tensor, "_coordinates _d_model"]:
    """Return the rows of ``W_out`` or ``W_O`` that belong to a hook point's coordinates."""
    written = [entry for pattern, entry in _WEIGHTS.items() if name == pattern.format(layer=layer)]
    if not written:
        raise NotReadable(
            f"The write vectors of units at {name!r} are unknown. They are known for the sites "
            "'mlp', 'attn_heads', 'attn_z' and 'resid'."
        )
    part, weights, norm = written[0]
    blocks: Any = getattr(model, "blocks", None)
    block = None if blocks is None else blocks[layer]
    if getattr(block, norm, None) is not None:
        raise NotReadable(
            f"{model_name(model)!r} normalises the output of {name!r} before it adds the output to "
            f"the residual stream ({norm}), so the write vectors depend on the prompt."
        )
    vectors = _tensor(block, part, weights)
    return vectors.reshape(-1, vectors.shape[-1]).float()


def direct_logits(
    model: HookedModel, directions: Float[torch.Tensor, "directions d_model"]
) -> Float[torch.Tensor, "directions d_vocab"]:
    """Return the centred logits of directions on their own; 0 for a direction of length 0."""
    to_logits = unembedding(model)
    lengths = directions.norm(dim=-1, keepdim=True)
    # Scale to root mean square 1, where the final norm's epsilon is negligible.
    scaled = directions / lengths.clamp_min(1e-30) * directions.shape[-1] ** 0.5
    stream = torch.cat([scaled, torch.zeros_like(scaled[:1])])
    final_norm: Any = getattr(model, "ln_final", None)
    stream = stream.to(to_logits)[None]
    normed = (stream if final_norm is None else final_norm(stream))[0]
    logits = (normed @ to_logits).float()
    logits = logits[:-1] - logits[-1]  # the last row is 0: subtract the effect of the norm's bias
    return logits - logits.mean(dim=-1, keepdim=True)


def unembedding(model: HookedModel) -> Float[torch.Tensor, "d_model d_vocab"]:
    """Return ``W_U``.

    Raises:
        NotReadable: If the model does not expose it.
    """
    return _tensor(model, "W_U")


def _tensor(of: Any, *names: str) -> torch.Tensor:
    """Return a tensor by the attribute names that lead to it."""
    try:
        for name in names:
            of = getattr(of, name)
    except (AttributeError, NotImplementedError) as error:
        raise NotReadable(f"The model does not expose {'.'.join(names)}: {error}.") from error
    if not isinstance(of, torch.Tensor):
        raise NotReadable(f"The model does not expose {'.'.join(names)} as a tensor.")
    return of

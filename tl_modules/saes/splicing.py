"""Validate SAEs, and attach them to a model's hook points."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import HookedModel, check_model, model_name
from tl_modules.models.sae_latents import LatentPoint, Sae
from tl_modules.runtime.arguments import checked
from tl_modules.saes.spliced import SplicedModel
from tl_modules.units import Units

SUFFIX = ".hook_sae_acts_post"
"""The suffix that makes the name of an SAE's latents from the name of its hook point, as in
SAELens."""


@checked
def with_saes(model: HookedModel, saes: Any) -> SplicedModel:
    """Make the latents of sparse autoencoders (SAEs) units of a model: the site ``"sae"``.

    Latents can then be collected, grouped into modules and ablated like neurons. The model itself
    does not change. If hooks change the latents ``f = encode(x)`` to ``g``, the activation ``x``
    becomes ``x + decode(g) - decode(f)``, which keeps the SAE's error ``x - decode(f)``. This
    happens before the hook point's other hooks. SAEs come from SAELens, or are any objects with
    ``encode``, ``decode`` and a ``cfg`` with ``d_in`` and ``d_sae``.

    Args:
        model: A ``TransformerBridge``, ``HookedTransformer`` or any ``HookedModel``.
        saes: One SAE; several SAEs at different hook points; or a mapping of hook point names to
            SAEs. Without a mapping, an SAE's hook point is its ``cfg.metadata.hook_name``, as in
            SAELens.

    Returns:
        The model with the SAEs, for use in the model's place.

    Raises:
        ModulesError: If there is no SAE, an object is no SAE or is a transcoder, the model lacks a
            hook point, or two SAEs have the same hook point.
    """
    check_model(model)
    if isinstance(model, SplicedModel):
        raise ModulesError(
            "model should have no SAEs yet; it has some. Pass all SAEs at once: "
            "with_saes(spliced.model, [first, second])."
        )
    hook_dict = model.hook_dict
    points_by_id: dict[int, tuple[int, LatentPoint]] = {}
    # Sorted by layer, so that units have the same order for any order of the SAEs.
    for name, sae in sorted(_named(saes), key=lambda pair: (_layer(pair[0]), pair[0])):
        if name not in hook_dict:
            like = get_close_matches(name, hook_dict, 3, 0.5)
            raise ModulesError(
                f"An SAE should be at a hook point of the model; {model_name(model)!r} has no "
                f"{name!r}. Similar hook points: {like}. Pass a mapping of hook points to SAEs."
            )
        on = hook_dict[name]
        if id(on) in points_by_id:  # by identity, because a bridge has several names for one
            raise ModulesError(
                f"Each hook point should have one SAE; the hook point of {name!r} has two. Make "
                "one spliced model per SAE."
            )
        heads = getattr(sae.cfg, "reshape_activations", None) == "hook_z"
        d_head = int(model.cfg.d_head) if heads else None
        points_by_id[id(on)] = _layer(name), LatentPoint(name + SUFFIX, sae, on, d_head)
    if not points_by_id:
        raise ModulesError(
            "saes should hold at least one SAE; got none. Load one with SAELens' "
            "SAE.from_pretrained."
        )
    layers, points = zip(*points_by_id.values(), strict=True)
    names = tuple(point.name for point in points)
    latents = Units.whole(names, layers, tuple(point.width for point in points), site="sae")
    return SplicedModel(model, dict(zip(names, points, strict=True)), latents)


def _named(saes: Any) -> list[tuple[str, Sae]]:
    """Return each SAE with the name of its hook point."""
    if isinstance(saes, Mapping):
        for name in saes:
            if not isinstance(name, str):
                raise ModulesError(
                    f"saes should map names of hook points to SAEs; got the key {name!r}. Write "
                    "{'blocks.6.hook_resid_post': sae}."
                )
        return [(name, _checked(sae)) for name, sae in saes.items()]
    # An SAE of SAELens is iterable too, so being iterable does not mean several.
    alone = hasattr(saes, "encode") or not isinstance(saes, Iterable)
    several: Iterable[Any] = [saes] if alone else saes
    return [(_own_name(_checked(sae)), sae) for sae in several]


def _checked(sae: Any) -> Sae:
    """Return the SAE, or raise if it cannot be spliced."""
    cfg = getattr(sae, "cfg", None)
    has = [callable(getattr(sae, name, None)) for name in ("encode", "decode")]
    sizes = [getattr(cfg, name, None) for name in ("d_in", "d_sae")]
    if not all(has) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ModulesError(
            f"An SAE should have encode, decode and a cfg with d_in and d_sae; got "
            f"{type(sae).__name__}. Load one with SAELens' SAE.from_pretrained, or add these four "
            "to your class."
        )
    # A transcoder's output belongs to another hook point, so there is no error to keep.
    metadata = getattr(cfg, "metadata", None)
    out = getattr(metadata, "hook_name_out", None)
    if hasattr(cfg, "d_out") or out not in (None, getattr(metadata, "hook_name", None)):
        raise ModulesError(
            f"An SAE should reconstruct its input; {type(sae).__name__} writes elsewhere"
            f"{'' if out is None else f', at {out!r}'}, as transcoders do. Use an SAE."
        )
    head = getattr(metadata, "hook_head_index", None)
    if head is not None:
        raise ModulesError(
            f"An SAE should read its whole hook point; {type(sae).__name__} reads head {head} "
            "only. Use an SAE of all heads."
        )
    return sae


def _own_name(sae: Sae) -> str:
    name = getattr(getattr(sae.cfg, "metadata", None), "hook_name", None)
    if not isinstance(name, str):
        raise ModulesError(
            f"An SAE should name its hook point in cfg.metadata.hook_name; {type(sae).__name__} "
            "names none. Pass a mapping: with_saes(model, {'blocks.6.hook_resid_post': sae})."
        )
    return name


def _layer(name: str) -> int:
    match = re.match(r"blocks\.(\d+)\.", name)
    if match is None:
        raise ModulesError(
            f"An SAE should be at a hook point of a layer, blocks.{{layer}}. ...; got {name!r}. "
            "'blocks.6.hook_resid_post' is usual."
        )
    return int(match[1])

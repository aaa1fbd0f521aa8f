"""Putting SAEs at a model's hook points, where they fit."""

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
"""What follows a hook point's name in that of its SAE's latents; SAELens calls them so too."""


@checked
def with_saes(model: HookedModel, saes: Any) -> SplicedModel:
    """Make the latents of sparse autoencoders (SAEs) units of a model: the site ``"sae"``.

    The model itself is not changed. Where hooks make ``g`` of the latents ``f = encode(x)``, the
    activation ``x`` becomes ``x + decode(g) - decode(f)``: the SAE's error ``x - decode(f)`` is
    kept. That comes before the hook point's own hooks. SAELens' SAEs will do, and any object with
    ``encode``, ``decode`` and a ``cfg`` with ``d_in`` and ``d_sae``.

    Args:
        model: A ``TransformerBridge``, ``HookedTransformer`` or any ``HookedModel``.
        saes: One SAE; several, at different hook points; or a mapping of hook point names to SAEs.
            Without a mapping the name is the SAE's ``cfg.metadata.hook_name``, as in SAELens.

    Returns:
        The model with the SAEs, to be used in its place.

    Raises:
        ModulesError: If there is no SAE, one is no SAE or a transcoder, the model lacks its hook
            point, or two are at the same.
    """
    check_model(model)
    if isinstance(model, SplicedModel):
        raise ModulesError(
            "model has SAEs already. Pass all at once: with_saes(spliced.model, [first, second])."
        )
    hook_dict = model.hook_dict
    found: dict[int, tuple[int, LatentPoint]] = {}
    for name, sae in sorted(_named(saes), key=lambda pair: (_layer(pair[0]), pair[0])):
        if name not in hook_dict:
            like = get_close_matches(name, hook_dict, 3, 0.5)
            raise ModulesError(
                f"An SAE should be at a hook point of the model; {model_name(model)!r} has no "
                f"{name!r}. Hook points like it: {like}. Pass a mapping of hook points to SAEs to "
                "say where they go."
            )
        on = hook_dict[name]
        if id(on) in found:  # by the hook point: a bridge has several names for one
            raise ModulesError(
                f"Each hook point should have one SAE; the one of {name!r} has two. Make a model "
                "for each of them."
            )
        heads = getattr(sae.cfg, "reshape_activations", None) == "hook_z"
        d_head = int(model.cfg.d_head) if heads else None
        found[id(on)] = _layer(name), LatentPoint(name + SUFFIX, sae, on, d_head)
    if not found:
        raise ModulesError("saes should hold at least one SAE; got none.")
    layers, points = zip(*found.values(), strict=True)
    names = tuple(point.name for point in points)
    latents = Units.whole(names, layers, tuple(point.width for point in points), site="sae")
    return SplicedModel(model, dict(zip(names, points, strict=True)), latents)


def _named(saes: Any) -> list[tuple[str, Sae]]:
    """Each SAE with the name of its hook point."""
    if isinstance(saes, Mapping):
        for name in saes:
            if not isinstance(name, str):
                raise ModulesError(
                    f"saes should map names of hook points to SAEs; got the key {name!r}. Write "
                    "{'blocks.6.hook_resid_post': sae}."
                )
        return [(name, _checked(sae)) for name, sae in saes.items()]
    # SAELens' SAEs can be iterated over too.
    alone = hasattr(saes, "encode") or not isinstance(saes, Iterable)
    several: Iterable[Any] = [saes] if alone else saes
    return [(_own_name(_checked(sae)), sae) for sae in several]


def _checked(sae: Any) -> Sae:
    """The SAE, if it is one that can be spliced."""
    cfg = getattr(sae, "cfg", None)
    has = [callable(getattr(sae, name, None)) for name in ("encode", "decode")]
    sizes = [getattr(cfg, name, None) for name in ("d_in", "d_sae")]
    if not all(has) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ModulesError(
            f"An SAE should have encode, decode and a cfg with d_in and d_sae; got "
            f"{type(sae).__name__}. Load it with SAELens' SAE.from_pretrained, or give your own "
            "these four."
        )
    metadata = getattr(cfg, "metadata", None)
    out = getattr(metadata, "hook_name_out", None)
    if hasattr(cfg, "d_out") or out not in (None, getattr(metadata, "hook_name", None)):
        raise ModulesError(
            f"An SAE should rebuild what it reads; {type(sae).__name__} writes elsewhere"
            f"{'' if out is None else f', at {out!r}'}, as transcoders do. Use an SAE."
        )
    head = getattr(metadata, "hook_head_index", None)
    if head is not None:
        raise ModulesError(
            f"An SAE should read all of its hook point; {type(sae).__name__} reads head "
            f"{head} only. Use an SAE of all heads."
        )
    return sae


def _own_name(sae: Sae) -> str:
    name = getattr(getattr(sae.cfg, "metadata", None), "hook_name", None)
    if not isinstance(name, str):
        raise ModulesError(
            f"{type(sae).__name__} does not say where it goes (cfg.metadata.hook_name). Pass a "
            "mapping: with_saes(model, {'blocks.6.hook_resid_post': sae})."
        )
    return name


def _layer(name: str) -> int:
    found = re.match(r"blocks\.(\d+)\.", name)
    if found is None:
        raise ModulesError(
            f"An SAE should be at a hook point of a layer, blocks.{{layer}}. ...; got {name!r}."
        )
    return int(found[1])

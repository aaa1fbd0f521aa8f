"""Sites: named kinds of hook points, one per layer, and what a unit is there."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from tl_modules.errors import ModulesError, check_choice
from tl_modules.models.hook_points import HookPoints
from tl_modules.models.hooked_model import HookedModel, check_model, model_name


@dataclass(frozen=True)
class SitePattern:
    """Where a site's hook points are in a model, and which numbers of its ``cfg`` size them."""

    name: str
    """The name that users pass."""

    pattern: str
    """The hook point's name, with ``{layer}`` in it."""

    width: tuple[str, ...]
    """Fields of ``model.cfg`` whose product is the number of units per layer."""

    span: tuple[str, ...] = ()
    """Fields whose product is the number of coordinates per unit; without fields it is 1."""

    apart_from: str | None = None
    """The name of a hook point, with ``{layer}`` in it, that must not be the site's own one."""

    def hook_points(self, model: HookedModel) -> HookPoints:
        """A model's hook points at this site, layer by layer.

        Raises:
            ModulesError: If the model lacks the hook points.
        """
        check_model(model)
        n_layers = int(model.cfg.n_layers)
        names = tuple(self.pattern.format(layer=layer) for layer in range(n_layers))
        points = model.hook_dict  # which some models make anew each time
        missing = [name for name in names if name not in points]
        fields = [name for name in self.width + self.span if not getattr(model.cfg, name, None)]
        if missing or fields:
            raise ModulesError(
                f"The site {self.name!r} needs the hook points {self.pattern!r} and "
                f"{', '.join(f'cfg.{name}' for name in self.width + self.span)}; "
                f"{model_name(model)!r} lacks {missing or fields}. Use a model whose layers "
                "TransformerLens exposes there."
            )
        width, span = (
            prod(int(getattr(model.cfg, name)) for name in fields)
            for fields in (self.width, self.span)
        )
        self._check_apart(model_name(model), points, names)
        layers = tuple(range(n_layers))
        return HookPoints(names, layers, (width,) * n_layers, (span,) * n_layers, self.name)

    def _check_apart(self, model: str, points: Mapping[str, Any], names: tuple[str, ...]) -> None:
        """Refuse layers where TransformerLens gives another hook point this site's name."""
        if self.apart_from is None:
            return
        others = [self.apart_from.format(layer=layer) for layer in range(len(names))]
        same = [
            name
            for name, other in zip(names, others, strict=True)
            if points[name] is points.get(other)
        ]
        if same:
            raise ModulesError(
                f"The site {self.name!r} needs each layer's own hook point for its neurons; in "
                f"{len(same)} of {len(names)} layers of {model!r} {same[0]!r} is "
                f"{self.apart_from!r} under another name, as where the layer is a mixture of "
                "experts, whose neurons TransformerLens does not expose. Use 'attn_heads', "
                "'attn_z' or 'resid'."
            )


_SITES = (
    SitePattern(
        "mlp",
        "blocks.{layer}.mlp.hook_post",
        ("d_mlp",),
        apart_from="blocks.{layer}.mlp.hook_out",
    ),
    SitePattern("attn_heads", "blocks.{layer}.attn.hook_z", ("n_heads",), ("d_head",)),
    SitePattern("attn_z", "blocks.{layer}.attn.hook_z", ("n_heads", "d_head")),
    SitePattern("resid", "blocks.{layer}.hook_resid_post", ("d_model",)),
)
SITES = {site.name: site for site in _SITES}
SiteName = Literal["mlp", "attn_heads", "attn_z", "resid", "sae"]
"""Sites by name. ``mlp``: neurons where the down-projection reads them; act(gate) * up if gated.
``attn_heads``: attention heads, each by its output before the output projection; its activation is
that vector's length. ``attn_z``: the dimensions of those vectors. ``resid``: the dimensions of the
residual stream after each layer."""


def is_named(site: str) -> bool:
    """Whether a name is of sites that are looked up by name, and not of a user's own ``Site``."""
    return all(name in (*SITES, "sae") for name in site.split("+"))


def site_names(site: str) -> list[str]:
    """The sites that a name such as ``"mlp+attn_heads"`` joins; needs no model.

    Raises:
        ModulesError: If there is no such site, or two share hook points.
    """
    names = site.split("+")
    for name in names:
        check_choice("units", name, (*SITES, "sae"))
    patterns = [SITES[name].pattern if name in SITES else name for name in names]
    if len(set(patterns)) < len(patterns):
        raise ModulesError(
            f"The sites of {site!r} should have different hook points; some are the same. Name "
            "one of them."
        )
    return names


def hook_points_at(model: HookedModel, site: str) -> HookPoints:
    """A model's hook points at a named site, or at several: ``"mlp+attn_heads"``.

    The site ``"sae"`` is the model's own, in its mapping ``sites``: see ``with_saes``.

    Raises:
        ModulesError: If there is no such site, the model lacks its hook points, or two sites share
            hook points.
    """
    check_model(model)
    own: Mapping[str, Any] = getattr(model, "sites", {})
    parts: list[HookPoints] = []
    for name in site_names(site):
        if name == "sae" and name not in own:
            raise ModulesError(
                f"The site 'sae' needs a model with SAEs; {model_name(model)!r} has none. Use "
                "tlm.with_saes(model, saes) in its place."
            )
        parts.append(SITES[name].hook_points(model) if name in SITES else own[name].hook_points)
    return HookPoints(
        names=sum((part.names for part in parts), ()),
        layers=sum((part.layers for part in parts), ()),
        widths=sum((part.widths for part in parts), ()),
        spans=sum((part.spans for part in parts), ()),
        site=site,
    )

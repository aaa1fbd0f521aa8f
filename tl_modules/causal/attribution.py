"""Attribution: the patching effect of every unit and module, estimated from gradients."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_modules.causal.patching import get_act_patch_module
from tl_modules.causal.token_runs import check_pairs, mask_of, tokens_of
from tl_modules.errors import ModulesError, check_at_least, shown
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.target import Target, as_targets, units_on_one_site
from tl_modules.models.gradients import Taps, differentiable
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.models.token_arrays import TokenArray, Tokens
from tl_modules.runtime.arguments import checked
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.text import text_column
from tl_modules.units import Units

EMBEDDING = "hook_embed"
"""The hook point that integrated gradients interpolate at."""


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """Estimated patching effects, in the metric's units."""

    units: Units
    """All units of the site."""

    unit_scores: Float[np.ndarray, " units"]
    """Each unit's estimated effect of patching it alone, at all positions."""

    modules: pd.DataFrame
    """One row per module: ``module``, ``n_units``, ``score`` (the sum of its units' scores), and,
    with ``exact=True``, ``exact`` (the effect of patching it: patched metric minus corrupted
    metric)."""

    metric_clean: float
    """The metric on the clean run."""

    metric_corrupted: float
    """The metric on the corrupted run."""

    members: tuple[Units, ...] = ()
    """The units of each module, in the order of ``modules``."""

    def to_frame(self) -> pd.DataFrame:
        """One row per unit: ``layer``, ``hook_name``, ``unit``, ``module``, ``score``.

        ``module`` is the label of the module that holds the unit. If several modules hold it, this
        is the first; if none does, it is missing.
        """
        labels = np.full(len(self.units), None, dtype=object)
        modules = list(zip(self.modules["module"], self.members, strict=False))
        for label, members in reversed(modules):
            labels[members.flat()] = label
        is_text = any(isinstance(label, str) for label, _ in modules)
        column = text_column(labels) if is_text else pd.array(labels, dtype="Int64")
        return self.units.to_frame().assign(module=column, score=self.unit_scores)

    def by_module(self) -> Float[np.ndarray, " units"]:
        """Rank the units module by module, for ``faithfulness_curves``.

        The units of the module with the highest score come first, and each module's units follow
        each other by their own scores. Units of no module come last, by their own scores.

        Returns:
            One number per unit of the site; the highest comes first.
        """
        place = np.zeros(len(self.units))
        falling = np.argsort(-self.modules["score"].to_numpy(dtype=float), kind="stable")
        for later, module in enumerate(falling[::-1], 1):
            place[self.members[module].flat()] = later
        ranks = np.empty(len(self.units))
        ranks[np.lexsort((self.unit_scores, place))] = np.arange(len(self.units))
        return ranks

    def beside(self, nodes: Any) -> pd.DataFrame:
        """Tabulate the modules' scores beside the scores of the model's heads and layers.

        All scores are the same estimate, so they can be compared if the metrics are the same. Here
        the metric is a mean over the prompts; TransformerLens' ``metric_fn`` takes a single prompt
        without padding. Rows overlap: neurons are parts of the layers' ``mlp_out``.

        Args:
            nodes: What TransformerLens 4's ``attribution_patch`` returned at node granularity.

        Returns:
            One row per module (``kind`` is ``"module"``) and one per node, its positions summed:
            ``kind``, ``module``, ``layer``, ``head`` (missing where there is none), ``score``;
            largest magnitude first.

        Raises:
            ModulesError: If ``nodes`` is not such a result.
        """
        if not isinstance(getattr(nodes, "node_scores", None), Mapping):
            raise ModulesError(
                f"nodes should be what TransformerLens' attribution_patch returned; got "
                f"{type(nodes).__name__}."
            )
        totals: dict[tuple[str, int | None, int | None], float] = {}
        for node, score in nodes.node_scores.items():
            key = (node.kind, node.layer, node.head)
            totals[key] = totals.get(key, 0.0) + float(score)
        theirs = [
            {"kind": kind, "module": None, "layer": layer, "head": head, "score": score}
            for (kind, layer, head), score in totals.items()
        ]
        ours = [
            {"kind": "module", "module": label, "layer": None, "head": None, "score": score}
            for label, score in self.modules[["module", "score"]].itertuples(index=False)
        ]
        table = pd.DataFrame([*ours, *theirs])
        numbers = dict.fromkeys(("module", "layer", "head"), "Int64")
        order = np.argsort(-np.abs(table["score"].to_numpy(dtype=float)), kind="stable")
        return table.astype(numbers).iloc[order].reset_index(drop=True)

    def agreement(self) -> pd.Series:
        """How well the modules' scores agree with exact patching.

        Returns:
            ``pearson`` and ``spearman`` correlation over the modules; NaN for fewer than three.

        Raises:
            ModulesError: If the exact effects were not measured (``exact=True``).
        """
        if "exact" not in self.modules:
            raise ModulesError("No exact effects are known. Pass exact=True to attribute_modules.")
        score, exact = self.modules["score"], self.modules["exact"]
        if len(score) < 3:
            return pd.Series({"pearson": np.nan, "spearman": np.nan})
        with np.errstate(divide="ignore", invalid="ignore"):  # NaN where all are alike
            ranks = np.corrcoef(score.rank(), exact.rank())
            values = np.corrcoef(score, exact)
        return pd.Series({"pearson": float(values[0, 1]), "spearman": float(ranks[0, 1])})

    def __repr__(self) -> str:
        """One line, not its arrays."""
        return (
            f"Attribution({len(self.modules)} modules, {len(self.units):,} units, metric "
            f"{self.metric_corrupted:.4g} corrupted, {self.metric_clean:.4g} clean)"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the table of modules."""
        return html_table(repr(self), self.modules)


@checked
@measures
def attribute_modules(  # noqa: PLR0913 - TransformerLens' arguments, and the modules
    model: HookedModel,
    clean_tokens: Tokens,
    corrupted_tokens: Tokens,
    metric: Callable[[torch.Tensor], torch.Tensor],
    modules: Target | Iterable[Target],
    *,
    n_steps: int = 1,
    exact: bool = False,
    attention_mask: TokenArray | None = None,
    progress: bool = True,
) -> Attribution:
    """Estimate the effect of patching each module, and each unit, from the clean run.

    To first order, patching unit j changes the metric by the sum over positions of
    ``(clean activation - corrupted activation) * d metric / d activation``, with the gradient of
    the corrupted run: attribution patching (Nanda 2023; Syed, Rager & Conmy 2023), one backward
    pass for all units. With ``n_steps`` above 1, the gradient is averaged over runs whose
    embeddings lie at ``n_steps`` midpoints between the corrupted and the clean embeddings
    (integrated gradients; Sundararajan, Taly & Yan 2017; EAP-IG of Hanna, Pezzelle & Belinkov
    2024); this helps where the corrupted run's gradient is flat. A module's score is the sum of its
    units' scores, so it misses joint effects; ``exact=True`` measures them. A first token that both
    prompts share, such as BOS, has the same activations in both runs and adds 0.

    Args:
        model: The model.
        clean_tokens: The clean run's tokens, ``[batch, pos]``.
        corrupted_tokens: The corrupted run's tokens, of the same shape.
        metric: From logits ``[batch, pos, d_vocab]`` to a scalar, or to ``[batch]``, which is
            averaged.
        modules: A ``ModuleSet``, some modules of one, or one; or other targets with ``units``.
        n_steps: Number of gradients to average; 1 uses the corrupted run's gradient.
        exact: Also patch each module.
        attention_mask: 1 or True where a token is real; padding counts for nothing.
        progress: Show progress bars.

    Returns:
        The scores.

    Raises:
        ModulesError: If tokens or mask are malformed or differ in shape, the modules belong to
            another model, the metric is neither a scalar nor one number per prompt, the metric or a
            score is not finite, or the model was loaded inside ``torch.inference_mode()``.
    """
    targets = as_targets(modules)
    each_units = units_on_one_site(targets)
    check_at_least("n_steps", n_steps, 1)
    for target in targets:
        target.check_model(model)
    first = tokens_of(model, "clean_tokens", clean_tokens)
    tokens = tokens_of(model, "corrupted_tokens", corrupted_tokens)
    check_pairs(first, tokens)
    mask = mask_of(tokens, attention_mask)
    units = each_units[0]
    runs = _Runs(model, units.hook_names, metric, mask, tokens.shape)
    with differentiable():
        clean, metric_clean = runs.read(first)
        corrupted, metric_corrupted = runs.read(tokens)
        gradients = runs.gradients(clean, corrupted, tokens, n_steps, progress)
    real = torch.ones(tokens.shape, dtype=torch.bool) if mask is None else mask
    pieces = []
    for name in units.hook_names:
        change = (clean[name].float() - corrupted[name].float()) * gradients[name].float()
        kept = real.to(change.device)[..., None]
        pieces.append(torch.where(kept, change.flatten(2), 0.0).sum((0, 1)))
    scores = units.every().summed(torch.cat(pieces).cpu().double().numpy())
    if not np.isfinite([metric_clean, metric_corrupted, *scores]).all():
        raise ModulesError(
            f"The metric and its gradients should be finite; the metric is {metric_clean:.4g} on "
            f"the clean and {metric_corrupted:.4g} on the corrupted run. Run the model in a wider "
            "dtype (float32), or use another metric."
        )
    table = pd.DataFrame(
        {
            "module": [target.label for target in targets],
            "n_units": [len(units) for units in each_units],
            "score": [float(scores[units.flat()].sum()) for units in each_units],
        }
    )
    if exact:
        patched = get_act_patch_module(
            model,
            tokens,
            clean,
            runs.scalar,
            targets,
            attention_mask=mask,
            progress=progress,
        )
        table["exact"] = patched.cpu().double().numpy() - metric_corrupted
    return Attribution(
        units.every(), scores, table, metric_clean, metric_corrupted, tuple(each_units)
    )


@dataclass(frozen=True, eq=False)
class _Runs:
    """Runs of the model that read activations, and gradients of the metric by them."""

    model: HookedModel
    hook_names: tuple[str, ...]
    metric: Callable[[torch.Tensor], torch.Tensor]
    attention_mask: torch.Tensor | None
    shape: torch.Size

    def read(self, tokens: torch.Tensor) -> tuple[dict[str, torch.Tensor], float]:
        """The site's activations and the embeddings, and the metric."""
        activations: dict[str, torch.Tensor] = {}

        def reader(name: str) -> Callable[..., None]:
            # Stored by the name asked for: ``hook.name`` may be an alias.
            return lambda activation, hook: activations.update({name: activation.clone()})

        hooks: FwdHooks = [(name, reader(name)) for name in (*self.hook_names, EMBEDDING)]
        with torch.no_grad():
            value = self.scalar(self._run(tokens, hooks))
        return activations, float(value)

    def gradients(
        self,
        clean: dict[str, torch.Tensor],
        corrupted: dict[str, torch.Tensor],
        tokens: torch.Tensor,
        n_steps: int,
        progress: bool,
    ) -> dict[str, torch.Tensor]:
        """The metric's gradient by each hook point's activation, averaged over the steps."""
        total = {name: torch.zeros_like(corrupted[name]).float() for name in self.hook_names}
        steps = range(n_steps)
        for step in tqdm(steps, desc="attribute", unit="step", disable=not progress):
            # Midpoints; a single step stays at the corrupted run.
            share = (step + 0.5) / n_steps if n_steps > 1 else 0.0
            embedding = torch.lerp(corrupted[EMBEDDING], clean[EMBEDDING], share)
            for name, gradient in self._gradients_at(embedding, tokens).items():
                total[name] += gradient / n_steps
        return total

    def _gradients_at(
        self, embedding: torch.Tensor, tokens: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        taps = Taps(self.hook_names)
        embed: FwdHooks = [(EMBEDDING, lambda activation, hook: embedding)]
        value = self.scalar(self._run(tokens, embed + taps.fwd_hooks))
        if not value.requires_grad:
            raise ModulesError(
                "metric should return a tensor that gradients flow through; what it returned has "
                "none. Compute it from the logits in torch, without detach(), item() or "
                "torch.no_grad()."
            )
        return taps.gradients(value)

    def scalar(self, logits: torch.Tensor) -> torch.Tensor:
        """The metric as one number."""
        value = self.metric(logits)
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            got = f"{value.dtype}" if isinstance(value, torch.Tensor) else shown(value)
            raise ModulesError(
                "metric should return a tensor of floating-point numbers that gradients flow "
                f"through; it returned {got}. Compute it from the logits in torch, without "
                "item(), tolist() or numpy()."
            )
        if value.shape == (self.shape[0],):
            return value.mean()
        if value.ndim != 0:
            raise ModulesError(
                f"metric should return a scalar or one number per prompt, ({self.shape[0]},); it "
                f"returned shape {tuple(value.shape)}."
            )
        return value

    def _run(self, tokens: torch.Tensor, hooks: FwdHooks) -> torch.Tensor:
        options = {}
        device = getattr(self.model.cfg, "device", None)
        if self.attention_mask is not None:
            options["attention_mask"] = self.attention_mask.clone().long().to(device)
        # Copies: the caller's may have been made in inference mode.
        return self.model.run_with_hooks(tokens.clone().to(device), fwd_hooks=hooks, **options)

"""A module of an old task, found again in a model trained on a new one, and kept."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module import Module
from tl_modules.runtime.arguments import checked
from tl_modules.tables.html_tables import html_table
from tl_modules.training.entries import Entries
from tl_modules.training.masks import NeuronRows, neuron_rows, units_of
from tl_modules.units import Units


@dataclass(frozen=True, eq=False, repr=False)
class Fusion:
    """What ``fuse_pathways`` did to the new model."""

    table: pd.DataFrame
    """One row a unit of the module: ``layer``, ``unit`` (its number in the old model),
    ``new_unit``, ``similarity`` (the cosine of its weights there and here, before)."""

    units: Units
    """Where the module lies in the new model."""

    before: Float[torch.Tensor, " _entries"]
    """What their weights were."""

    def restore(self, model: HookedModel) -> None:
        """Give the new model the weights back that it had before, bit for bit.

        Args:
            model: The new model.

        Raises:
            ModulesError: If it is another one, by its shape.
        """
        Entries.of(model, self.units).write(self.before)

    def __repr__(self) -> str:
        """One line, not its arrays."""
        moved = np.count_nonzero(self.table["unit"] != self.table["new_unit"])
        return (
            f"Fusion({len(self.table):,} units, {moved:,} of them at another place, mean "
            f"similarity {self.table['similarity'].mean():.3f})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the units that changed most."""
        return html_table(repr(self), self.table.sort_values("similarity").head(10))


@checked
def fuse_pathways(
    old_model: HookedModel,
    new_model: HookedModel,
    module: Module | Units,
    *,
    keep: float = 1.0,
) -> Fusion:
    """Put a module of an old task back into a model that was trained on a new one; in place.

    After Learning without Isolation (Chen et al. 2025, "Learning without Isolation: Pathway
    Protection for Continual Learning", arXiv 2505.18568), which fuses the models before and after
    a task as a matching of graphs: layer by layer the channels are assigned to each other by a
    permutation ``P`` that maximises ``sum_ij P_ij s_ij`` with similarities ``s``, and the matched
    ones are merged. Here ``s`` is the cosine of two neurons' weights, all neurons of a layer are
    assigned (Kuhn 1955), and only the module's are merged, ``w := keep w_old + (1 - keep) w_new``:
    the others keep what they learnt. The paper makes deep layers' channels as *unlike* as can be,
    so that each task takes its own; that is left out, for which channels are the old task's is
    known here: the module's.

    Args:
        old_model: The model that the module was found in.
        new_model: The same, trained further; it is changed.
        module: The module, or units, of the site ``"mlp"``.
        keep: The old weights' share, from 0 to 1.

    Returns:
        What was matched, the module's units in the new model, and the way back.

    Raises:
        ModulesError: If the units are no MLP neurons of both models, or the share cannot be.
    """
    if not 0 <= keep <= 1:
        raise ModulesError(f"keep should lie from 0 to 1; got {keep}. 1 puts the old weights back.")
    units = units_of(module)
    layers = zip(neuron_rows(old_model, units), neuron_rows(new_model, units), strict=True)
    new_units = np.empty(len(units), dtype=np.int64)
    similarity = np.empty(len(units))
    pairs = []
    for (hook, at), ((_, index, old), (_, _, new)) in zip(units.by_hook(), layers, strict=True):
        del hook
        cosines = _cosines(old, new)
        matched = _assigned(cosines)[index]
        new_units[at], similarity[at] = matched, cosines[index, matched]
        pairs.append((index, matched, old, new))
    order = np.lexsort((new_units, units.hook))
    found = Units(
        units.hook_names,
        units.layers,
        units.widths,
        units.spans,
        hook=units.hook[order],
        index=new_units[order].astype(np.int32),
        site=units.site,
    )
    entries = Entries.of(new_model, found)
    before = entries.gather(entries.parameters)
    with torch.no_grad():
        for index, matched, old, new in pairs:
            for theirs, ours in zip(old, new, strict=True):
                source = theirs.of(theirs.parameter)[index].to(ours.parameter)
                target = ours.of(ours.parameter)
                target[matched] = torch.lerp(target[matched], source, keep)
    table = units.to_frame()[["layer", "unit"]].assign(
        new_unit=new_units, similarity=similarity.astype(np.float64)
    )
    return Fusion(table, found, before)


def _cosines(old: list[NeuronRows], new: list[NeuronRows]) -> Float[np.ndarray, "neurons neurons"]:
    """Of each old neuron's weights, all of them in a row, with each new one's."""
    shapes = [[rows.shape for rows in every] for every in (old, new)]
    if shapes[0] != shapes[1]:
        raise ModulesError(
            f"Both models' neurons should have the same weights; the old model's have {shapes[0]}, "
            f"the new one's {shapes[1]}. Take a model that was trained on from the old one."
        )
    sides = []
    for every in (old, new):
        with torch.no_grad():
            weights = torch.cat([rows.of(rows.parameter).double() for rows in every], dim=1)
        if not bool(weights.isfinite().all()):
            raise ModulesError(
                f"{every[0].name!r} and its likes should be finite; some weights are not. Take a "
                "model from before its training diverged."
            )
        sides.append(torch.nn.functional.normalize(weights, dim=1).cpu().numpy())
    return sides[0] @ sides[1].T


def _assigned(similarity: Float[np.ndarray, "neurons neurons"]) -> Int[np.ndarray, " neurons"]:
    """The new neuron of each old one."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    return linear_sum_assignment(similarity, maximize=True)[1]

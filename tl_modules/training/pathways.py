"""Find a module of an old task in a model trained on a new task, and put it back."""

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
    """The changes that ``fuse_pathways`` made to the new model."""

    table: pd.DataFrame
    """One row per unit of the module: ``layer``, ``unit`` (its number in the old model),
    ``new_unit``, ``similarity`` (the cosine of its weights in both models, before the fusion)."""

    units: Units
    """The module's units in the new model."""

    before: Float[torch.Tensor, " _entries"]
    """The weights of these units before the fusion."""

    def restore(self, model: HookedModel) -> None:
        """Undo the fusion: give the new model its weights back, bit for bit.

        Args:
            model: The new model.

        Raises:
            ModulesError: If the model's shapes differ from the new model's.
        """
        Entries.of(model, self.units).write(self.before)

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        moved = np.count_nonzero(self.table["unit"] != self.table["new_unit"])
        return (
            f"Fusion({len(self.table):,} units, {moved:,} of them at another place, mean "
            f"similarity {self.table['similarity'].mean():.3f})"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the units that changed most."""
        return html_table(repr(self), self.table.sort_values("similarity").head(10))


@checked
def fuse_pathways(
    old_model: HookedModel,
    new_model: HookedModel,
    module: Module | Units,
    *,
    keep: float = 1.0,
) -> Fusion:
    """Put a module of an old task back into a model trained on a new task; in place.

    The method follows Learning without Isolation (Chen et al. 2025, "Learning without Isolation:
    Pathway Protection for Continual Learning", arXiv 2505.18568), which fuses the models before and
    after a task by matching graphs. In each layer a permutation ``P`` assigns the channels of both
    models to each other and maximises ``sum_ij P_ij s_ij`` of their similarities ``s``; matched
    channels are merged. Here ``s`` is the cosine of two neurons' weights, and all neurons of a
    layer are assigned (Kuhn 1955). Only the module's neurons are merged, ``w := keep w_old + (1 -
    keep) w_new``; the others keep what they learnt. In deep layers the paper makes channels as
    *unlike* as possible, so that each task gets its own channels. This function omits that step,
    because the module says which channels belong to the old task.

    Args:
        old_model: The model in which the module was discovered.
        new_model: The same model after further training; its weights change.
        module: The module, or units, of the site ``"mlp"``.
        keep: The share of the old weights, from 0 to 1.

    Returns:
        The matched units, the module's units in the new model, and ``restore`` to undo the fusion.

    Raises:
        ModulesError: If the units are not MLP neurons of both models, or ``keep`` is not valid.
    """
    if not 0 <= keep <= 1:
        raise ModulesError(
            f"keep should lie between 0 and 1; got {keep}. 1 restores the old weights."
        )
    units = units_of(module)
    layers = zip(neuron_rows(old_model, units), neuron_rows(new_model, units), strict=True)
    new_index = np.empty(len(units), dtype=np.int64)
    similarity = np.empty(len(units))
    pairs = []
    for (_, places), ((_, index, old), (_, _, new)) in zip(units.by_hook(), layers, strict=True):
        cosines = _cosines(old, new)
        # All neurons of the layer are assigned, so a new neuron that fits another old neuron better
        # is not taken for the module.
        matched = _assigned(cosines)[index]
        new_index[places], similarity[places] = matched, cosines[index, matched]
        pairs.append((index, matched, old, new))
    order = np.lexsort((new_index, units.hook))
    new_units = Units(
        units.hook_names,
        units.layers,
        units.widths,
        units.spans,
        hook=units.hook[order],
        index=new_index[order].astype(np.int32),
        site=units.site,
    )
    entries = Entries.of(new_model, new_units)
    before = entries.gather(entries.parameters)
    # Nothing is written before all layers are matched, so an error leaves the model as it was.
    with torch.no_grad():
        for index, matched, old, new in pairs:
            for theirs, ours in zip(old, new, strict=True):
                source = theirs.of(theirs.parameter)[index].to(ours.parameter)
                target = ours.of(ours.parameter)
                target[matched] = torch.lerp(target[matched], source, keep)
    table = units.to_frame()[["layer", "unit"]].assign(
        new_unit=new_index, similarity=similarity.astype(np.float64)
    )
    return Fusion(table, new_units, before)


def _cosines(old: list[NeuronRows], new: list[NeuronRows]) -> Float[np.ndarray, "neurons neurons"]:
    """Compute the cosine of each old neuron's concatenated weights with each new neuron's."""
    shapes = [[rows.shape for rows in weights] for weights in (old, new)]
    if shapes[0] != shapes[1]:
        raise ModulesError(
            f"Both models' neurons should have weights of the same shapes; the old model has "
            f"{shapes[0]}, the new model {shapes[1]}. Pass a model that was trained further from "
            "the old model."
        )
    directions = []
    for parts in (old, new):
        with torch.no_grad():
            weights = torch.cat([rows.of(rows.parameter).double() for rows in parts], dim=1)
        if not bool(weights.isfinite().all()):
            raise ModulesError(
                f"The MLP weights of {parts[0].name!r}'s layer should be finite; some are not. "
                "Pass a model from before its training diverged."
            )
        directions.append(torch.nn.functional.normalize(weights, dim=1).cpu().numpy())
    return directions[0] @ directions[1].T


def _assigned(similarity: Float[np.ndarray, "neurons neurons"]) -> Int[np.ndarray, " neurons"]:
    """Assign a new neuron to each old neuron."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    return linear_sum_assignment(similarity, maximize=True)[1]

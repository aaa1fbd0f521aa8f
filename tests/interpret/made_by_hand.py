"""Module sets whose labels are chosen."""

import numpy as np
import pandas as pd

import tl_modules as tlm
from tl_modules.units import Units


def layered(widths, layers=None):
    """Units of a model with such layers."""
    names = tuple(f"blocks.{number}.hook" for number in range(len(widths)))
    return Units.whole(names, tuple(layers or range(len(widths))), tuple(widths))


def module_set(unit_labels, units, sample_labels=(0, 1, 1), categories=None, n_modules=None):
    """A set with these labels; what else it holds is arbitrary."""
    unit_labels, sample_labels = np.asarray(unit_labels), np.asarray(sample_labels)
    samples = pd.DataFrame({"prompt": [f"p{row}" for row in range(len(sample_labels))]})
    if categories is not None:
        samples["category"] = list(categories)
    return tlm.ModuleSet(
        units=units,
        samples=samples,
        unit_labels=unit_labels,
        sample_labels=sample_labels,
        n_modules=int(unit_labels.max()) + 1 if n_modules is None else n_modules,
        sample_scores=np.zeros(len(sample_labels)),
        objective=tlm.modules.Objective(1.0, 1.0, 1.0),
    )

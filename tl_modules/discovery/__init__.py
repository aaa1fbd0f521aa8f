"""Find modules in an activation matrix: IterD, its starts, and baselines.

Discovery never sees a model.
"""

from tl_modules.discovery.baselines import discover_baseline
from tl_modules.discovery.descent import IterDResult
from tl_modules.discovery.from_activations import discover
from tl_modules.discovery.from_arrays import iterd
from tl_modules.discovery.membership import set_aside_background
from tl_modules.discovery.merging import merge_modules
from tl_modules.discovery.objectives import objective
from tl_modules.discovery.stability_scores import best_n_modules, choose_n_modules, stability

__all__ = [
    "IterDResult",
    "best_n_modules",
    "choose_n_modules",
    "discover",
    "discover_baseline",
    "iterd",
    "merge_modules",
    "objective",
    "set_aside_background",
    "stability",
]

"""Train only a module's weights, or all other weights: unlearning, protection, fusion of models.

The selected weights change in place; all other weights stay the same bit for bit.
"""

from tl_modules.training.concentrate import concentrated
from tl_modules.training.forgetting_controls import forgetting
from tl_modules.training.limited import training_all_but, training_only
from tl_modules.training.masks import parameter_masks
from tl_modules.training.pathways import Fusion, fuse_pathways
from tl_modules.training.rectify import rectified
from tl_modules.training.reweight import satimp_weights
from tl_modules.training.unlearning import Unlearning, unlearn

__all__ = [
    "Fusion",
    "Unlearning",
    "concentrated",
    "forgetting",
    "fuse_pathways",
    "parameter_masks",
    "rectified",
    "satimp_weights",
    "training_all_but",
    "training_only",
    "unlearn",
]


def __dir__() -> list[str]:
    return __all__

"""Prompts as points: near each other where the same modules are active."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError, check_choice, check_seed
from tl_modules.evaluation.module_means import module_means
from tl_modules.modules.module_set import ModuleSet
from tl_modules.tables.against_controls import ROUNDING
from tl_modules.tables.columns import free_name

Projection = Literal["pca", "tsne"]
"""``pca``: the two directions of most variance, which keep far distances; ``tsne``: t-SNE (van der
Maaten & Hinton 2008), which keeps neighbourhoods and nothing else."""
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)


@dataclass(frozen=True, eq=False)
class Landscape:
    """Samples in the plane."""

    points: pd.DataFrame
    """One row a sample: its own columns, ``x``, ``y``, and ``strongest``, the module that is most
    active on it beside that module's mean over all samples. Where the samples have columns of these
    names already, the new ones are named by ``columns``."""

    projection: Projection
    """How the plane was found."""

    explained: tuple[float, float] | None
    """The share of the variance that x and y have; None unless by ``pca``."""

    columns: tuple[str, str, str] = ("x", "y", "strongest")
    """What ``points`` calls the coordinates and the strongest module."""


def landscape(
    modules: ModuleSet,
    acts: ActivationMatrix | ActivationStore,
    *,
    projection: Projection = "pca",
    seed: int = 0,
) -> Landscape:
    """Lay samples out by how active each module is on them.

    A sample's coordinates are its normalised mean activation in each module, standardised over the
    samples (the features of the paper's downstream test, arXiv 2603.17823).

    Args:
        modules: The modules.
        acts: Activations of any samples, raw or normalised.
        projection: One of ``PROJECTIONS``.
        seed: Seeds t-SNE.

    Returns:
        The points.

    Raises:
        ModulesError: If there is no such projection, there are fewer than three samples, or the
            activations are of other units or of another reading.
    """
    check_choice("projection", projection, PROJECTIONS)
    check_seed(seed)
    means = module_means(modules, acts).astype(np.float64)
    if len(means) < 3:
        raise ModulesError(
            f"acts should hold at least 3 samples to lay out; got {len(means)}. Collect more "
            "prompts."
        )
    spread = means.std(axis=0)
    varies = spread > ROUNDING * np.abs(means).max()
    features = np.where(varies, means - means.mean(axis=0), 0.0) / np.where(varies, spread, 1.0)
    places, explained = in_plane(features, projection, seed)
    found = (places[:, 0], places[:, 1], features.argmax(axis=1))
    usual = ("x", "y", "strongest")
    x, y, strongest = (
        free_name(acts.samples, name, values) for name, values in zip(usual, found, strict=True)
    )
    names = (x, y, strongest)
    points = acts.samples.assign(**dict(zip(names, found, strict=True))).reset_index(drop=True)
    return Landscape(points, projection, explained, names)


def in_plane(
    features: Float[np.ndarray, "samples features"], projection: Projection, seed: int
) -> tuple[Float[np.ndarray, "samples 2"], tuple[float, float] | None]:
    """Lay vectors out in the plane.

    Args:
        features: The vectors, three at least.
        projection: One of ``PROJECTIONS``.
        seed: Seeds t-SNE.

    Returns:
        Their places, all 0 where the vectors are alike; and the share of the variance that x and y
        have, None unless by ``pca``.
    """
    if (features == features[0]).all():
        return np.zeros((len(features), 2)), (0.0, 0.0) if projection == "pca" else None
    if projection == "pca":
        return _pca(features)
    return _tsne(features, seed), None


def _pca(
    features: Float[np.ndarray, "samples modules"],
) -> tuple[Float[np.ndarray, "samples 2"], tuple[float, float]]:
    from sklearn.decomposition import PCA  # slow to import

    fitted = PCA(2, svd_solver="full").fit(features)  # signs are fixed, so no seed
    x, y = fitted.explained_variance_ratio_.tolist()
    return fitted.transform(features), (x, y)


def _tsne(
    features: Float[np.ndarray, "samples modules"], seed: int
) -> Float[np.ndarray, "samples 2"]:
    from sklearn.manifold import TSNE  # slow to import

    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)

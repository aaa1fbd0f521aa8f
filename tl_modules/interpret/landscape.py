"""Lay prompts out as points; two points are near if the same modules are active on them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError, check_seed
from tl_modules.evaluation.module_means import module_means
from tl_modules.modules.module_set import ModuleSet
from tl_modules.tables.against_controls import ROUNDING
from tl_modules.tables.columns import free_name

Projection = Literal["pca", "tsne"]
"""``pca`` takes the two directions of most variance, which keeps far distances; ``tsne`` is t-SNE
(van der Maaten & Hinton 2008), which keeps neighbourhoods and nothing else."""


@dataclass(frozen=True, eq=False)
class Landscape:
    """Samples as points in the plane."""

    points: pd.DataFrame
    """One row per sample: its own columns, ``x``, ``y``, and ``strongest``, the module whose
    activation on the sample is highest above its mean over all samples. ``columns`` gives the names
    of the three new columns, which differ if the samples already have columns of these names."""

    projection: Projection
    """The projection onto the plane, ``"pca"`` or ``"tsne"``."""

    explained: tuple[float, float] | None
    """The shares of the variance along x and along y; None unless the projection is ``pca``."""

    columns: tuple[str, str, str] = ("x", "y", "strongest")
    """The names of the columns of ``points`` that hold x, y and the strongest module."""


def landscape(
    modules: ModuleSet,
    acts: ActivationMatrix | ActivationStore,
    *,
    projection: Projection = "pca",
    seed: int = 0,
) -> Landscape:
    """Lay samples out in the plane by how active each module is on them, to see groups.

    A sample's features are its normalised mean activations in each module, standardised over the
    samples (the features of the paper's downstream test, arXiv 2603.17823).

    Args:
        modules: The modules.
        acts: Activations of any samples, raw or normalised.
        projection: ``"pca"`` or ``"tsne"``.
        seed: Seeds t-SNE.

    Returns:
        The points, with the samples' own columns.

    Raises:
        ModulesError: If the projection is unknown, there are fewer than three samples, or the
            activations have other units or another reading.
    """
    check_seed(seed)
    means = module_means(modules, acts).astype(np.float64)
    if len(means) < 3:
        raise ModulesError(
            f"acts should hold at least 3 samples to lay out; got {len(means)}. Collect more "
            "prompts."
        )
    deviation = means.std(axis=0)
    # Standardising a constant column would turn its rounding into a feature.
    varies = deviation > ROUNDING * np.abs(means).max()
    features = np.where(varies, means - means.mean(axis=0), 0.0) / np.where(varies, deviation, 1.0)
    places, explained = in_plane(features, projection, seed)
    columns = (places[:, 0], places[:, 1], features.argmax(axis=1))
    usual = ("x", "y", "strongest")
    x, y, strongest = (
        free_name(acts.samples, name, values) for name, values in zip(usual, columns, strict=True)
    )
    names = (x, y, strongest)
    points = acts.samples.assign(**dict(zip(names, columns, strict=True))).reset_index(drop=True)
    return Landscape(points, projection, explained, names)


def in_plane(
    features: Float[np.ndarray, "samples features"], projection: Projection, seed: int
) -> tuple[Float[np.ndarray, "samples 2"], tuple[float, float] | None]:
    """Project vectors onto the plane.

    Args:
        features: At least three vectors.
        projection: ``"pca"`` or ``"tsne"``.
        seed: Seeds t-SNE.

    Returns:
        One point per vector, all at 0 if the vectors are equal; and the shares of the variance
        along x and y, None unless the projection is ``pca``.
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

    fitted = PCA(2, svd_solver="full").fit(features)  # deterministic, signs too: needs no seed
    x, y = fitted.explained_variance_ratio_.tolist()
    return fitted.transform(features), (x, y)


def _tsne(
    features: Float[np.ndarray, "samples modules"], seed: int
) -> Float[np.ndarray, "samples 2"]:
    from sklearn.manifold import TSNE  # slow to import

    # t-SNE needs several neighbours per point; 30 is scikit-learn's default.
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)

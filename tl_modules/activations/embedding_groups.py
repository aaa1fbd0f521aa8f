"""Groups of prompts by a model's own embedding of them, for people without categories."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.activations.prompt_means import prompt_means
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interventions.measuring import measures
from tl_modules.models.batch_sizes import BatchSize, check_batch_size
from tl_modules.models.hook_points import HookPoints
from tl_modules.models.hooked_model import HookedModel, check_model, model_name
from tl_modules.models.sites import hook_points_at
from tl_modules.models.tokens import tokenise
from tl_modules.runtime.arguments import checked
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.labels import checked_labels, quoted
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddingAnnotator:
    """Labels a prompt by the nearest of some groups in a model's embedding; see ``annotate``."""

    table: pd.DataFrame
    """One row per prompt that the groups were made of, in their order: ``prompt``, ``category``
    (its group) and ``distance`` (from the group's centre; 1 is the standard deviation of all
    prompts along one dimension). A group's nearest prompts say what it is of."""

    names: tuple[str, ...]
    """The groups' names: ``"group 0"`` and so on, until ``named`` gives others."""

    centres: Float[np.ndarray, "groups width"]
    """The groups' centres, standardised."""

    mean: Float[np.ndarray, " width"]
    """The embedding's mean over the prompts."""

    scale: Float[np.ndarray, " width"]
    """Its standard deviation, by which embeddings are standardised; 1 where it is 0."""

    model: HookedModel
    """The model that embeds."""

    hook_name: str
    """Where it is read."""

    max_tokens: int | None
    """How many tokens of a prompt are read; None for the model's context."""

    def __repr__(self) -> str:
        """Return one line, without the table."""
        return (
            f"EmbeddingAnnotator({len(self.names)} groups of {len(self.table)} prompts, at "
            f"{self.hook_name!r} of {model_name(self.model)!r})"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the table."""
        return html_table(repr(self), self.table)

    def __call__(self, prompt: str) -> str:
        """Return the group of one prompt, as ``annotate`` asks for it."""
        return self.answers([prompt], progress=False)[0]

    def answers(
        self, prompts: Prompts, *, batch_size: BatchSize = "auto", progress: bool = True
    ) -> list[str]:
        """Return the group of each of many prompts, which is faster than one by one.

        Args:
            prompts: Strings, or a frame with a column ``prompt``.
            batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds.
            progress: Show a progress bar.

        Returns:
            One name per prompt.

        Raises:
            ModulesError: As in ``embedding_annotator``.
        """
        found = _embedded(
            *(self.model, prompts, self.hook_name, self.max_tokens, batch_size),
            progress=progress,
        )
        standard = (found - self.mean) / self.scale
        return [self.names[at] for at in _distances(standard, self.centres).argmin(axis=1)]

    def named(self, names: Mapping[str, str]) -> "EmbeddingAnnotator":
        """Return the same groups with other names, so that they agree with other annotators'.

        Args:
            names: New names by the present ones. Groups of the same name count as one label.

        Returns:
            A new annotator.

        Raises:
            ModulesError: If there is no such group, or a new name is blank.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ModulesError(
                f"names should be of the groups {quoted(self.names)}; got {unknown[0]!r}. Pass "
                f"{{{self.names[0]!r}: 'a name'}}, for one."
            )
        new = dict(zip(names, checked_labels(names.values()), strict=True))
        table = self.table.assign(category=self.table["category"].replace(new))
        return replace(self, table=table, names=tuple(new.get(name, name) for name in self.names))


@checked
@measures
def embedding_annotator(
    model: HookedModel,
    prompts: Prompts,
    n_groups: int,
    *,
    layer: int | None = None,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> EmbeddingAnnotator:
    """Group prompts by the model's own embedding of them, as an annotator where nobody labels.

    The embedding is the residual stream after the middle layer, averaged over the prompt's content
    tokens and standardised over the prompts; k-means makes the groups. They are what the model
    tells apart most, which may be a language, a length or a topic, and need not be what you mean:
    read a group's nearest prompts before you name it.

    Groups and modules of one model are found in the same activations. If both come from the same
    prompts, that a module is selective for a group says in part that the model was cut twice at the
    same place. Make the groups from other prompts than those that discovery reads and those that
    effects are measured on. The controls of an effect remain valid: they meet the same groups.

    Example::

        groups = tlm.embedding_annotator(model, other_prompts, 4)
        labels = tlm.annotate(held_out, {"groups": groups.answers(held_out)})

    Args:
        model: A ``TransformerBridge``, ``HookedTransformer`` or other ``HookedModel``.
        prompts: The prompts that the groups are made of: strings, or a frame with ``prompt``.
        n_groups: The number of groups, at least 2.
        layer: The layer after which to read; by default the middle one.
        batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Truncate prompts to this many tokens.
        seed: Seeds k-means.
        progress: Show a progress bar.

    Returns:
        A function of a prompt's text that returns the nearest group's name. Groups are numbered in
        the order of their first prompts.

    Raises:
        ModulesError: If an argument is not valid, the model lacks the residual stream's hook
            points, a prompt has no content token, there are fewer different embeddings than groups,
            or an activation is not finite.
    """
    check_model(model)
    check_at_least("n_groups", n_groups, 2)
    check_batch_size(batch_size)
    check_seed(seed)
    hook_name = _hook_name(model, layer)
    frame = prompt_frame(prompts)
    found = _embedded(model, frame, hook_name, max_tokens, batch_size, progress=progress)
    mean, scale = found.mean(axis=0), found.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = (found - mean) / scale
    n_different = len(np.unique(standard.round(9), axis=0))
    if n_different < n_groups:
        raise ModulesError(
            f"There should be at least n_groups={n_groups} prompts that the model embeds "
            f"differently; there are {n_different}. Add prompts, or lower n_groups."
        )
    labels = _groups(standard, n_groups, seed)
    centres = np.stack([standard[labels == at].mean(axis=0) for at in range(n_groups)])
    names = tuple(f"group {number}" for number in range(n_groups))
    table = pd.DataFrame(
        {
            "prompt": frame["prompt"],
            "category": [names[at] for at in labels],
            "distance": _distances(standard, centres)[np.arange(len(labels)), labels],
        }
    )
    return EmbeddingAnnotator(table, names, centres, mean, scale, model, hook_name, max_tokens)


def _hook_name(model: HookedModel, layer: int | None) -> str:
    """The residual stream's hook point after a layer."""
    n_layers = int(model.cfg.n_layers)
    layer = n_layers // 2 if layer is None else layer
    name = f"blocks.{layer}.hook_resid_post"
    if not 0 <= layer < n_layers or name not in model.hook_dict:
        raise ModulesError(
            f"layer should be one of the {n_layers} of {model_name(model)!r} with a hook point "
            f"'hook_resid_post'; got {layer}. Leave it out for the middle one."
        )
    return name


@measures
def _embedded(
    model: HookedModel,
    prompts: Prompts,
    hook_name: str,
    max_tokens: int | None,
    batch_size: BatchSize,
    *,
    progress: bool,
) -> Float[np.ndarray, "prompts width"]:
    """Each prompt's mean residual stream over its content."""
    check_batch_size(batch_size)
    token_lists = tokenise(model, prompt_frame(prompts)["prompt"].tolist(), max_tokens)
    resid = hook_points_at(model, "resid")
    at = resid.names.index(hook_name)
    points = HookPoints((hook_name,), (resid.layers[at],), (resid.widths[at],), (1,))
    (found,), _ = prompt_means(
        model, [(points, "signed")], token_lists, batch_size, progress=progress
    )
    return found.astype(np.float64)


def _distances(
    points: Float[np.ndarray, "prompts width"], centres: Float[np.ndarray, "groups width"]
) -> Float[np.ndarray, "prompts groups"]:
    """Distances per square root of the width: 1 is a standard deviation along each dimension."""
    return np.sqrt(((points[:, None] - centres) ** 2).mean(axis=-1))


def _groups(
    points: Float[np.ndarray, "prompts width"], n_groups: int, seed: int
) -> Int[np.ndarray, " prompts"]:
    """Groups by k-means, numbered in the order of their first points."""
    from sklearn.cluster import KMeans  # slow to import

    options: dict[str, Any] = {"n_init": 10}  # the library's stubs know texts alone
    fitted = KMeans(n_groups, random_state=seed, **options).fit(points)
    return pd.factorize(fitted.labels_)[0]

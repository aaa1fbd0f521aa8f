"""LEACE: erase the linear trace of a concept at hook points of a model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.positions import Positions, Where
from tl_modules.interventions.target import Target, check_made_from
from tl_modules.models.batch_sizes import BatchSize, batch_size_for
from tl_modules.models.batches import batches
from tl_modules.models.hooked_model import FwdHooks, HookedModel, check_model, model_name
from tl_modules.models.runs import hook_order
from tl_modules.models.token_arrays import TokenArray
from tl_modules.models.tokens import tokenise
from tl_modules.modules.module import Module
from tl_modules.related.covariances import Covariances, Tokens, check_installed
from tl_modules.related.linear_edit import LinearEdit
from tl_modules.related.prompt_sets import prompt_set_frames
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units


@dataclass(frozen=True, eq=False, repr=False)
class ConceptErasure(Target):
    """An intervention that erases a concept's linear trace from coordinates of hook points."""

    edits: tuple[LinearEdit, ...]
    """The edits ``x + (x - centre) @ read @ write``, in the order in which the model runs their
    hook points."""

    covariances: tuple[Covariances, ...]
    """The fitted statistics of each hook point, which the controls use too."""

    labels: Float[np.ndarray, " prompts"]
    """1 for prompts with the concept, 0 for prompts without it."""

    model: str
    """The model's name."""

    label: str = "leace"
    category: str | None = None

    @property
    def size(self) -> int:
        """The number of erased directions over all hook points."""
        return sum(edit.read.shape[1] for edit in self.edits)

    def check_model(self, model: HookedModel) -> None:
        """Raise unless the model is the one that the erasure was fitted on.

        Raises:
            ModulesError: If the model lacks a hook point or has another name.
        """
        names = [edit.hook_name for edit in self.edits]
        check_made_from(model, self.model, names, "ConceptErasure")

    def fwd_hooks(
        self,
        *,
        positions: Positions = None,
        attention_mask: TokenArray | None = None,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
    ) -> FwdHooks:
        """Return hooks that erase the concept; see ``Target.fwd_hooks``."""
        where = Where.given(positions, attention_mask, rows)
        return [edit.hook(where) for edit in self.edits]

    def controls(self, n_controls: int, generator: np.random.Generator) -> list["ConceptErasure"]:
        """Fit the same erasure to shuffled labels of the prompts.

        With several hook points, a control uses the activations under the true erasure at earlier
        hook points; the model does not run again. The target and its controls are then not exactly
        exchangeable. Random labels keep the level in the planted model of
        ``benchmarks.calibration``.

        Args:
            n_controls: The number of controls.
            generator: Shuffles the labels.

        Returns:
            The controls.
        """
        return [self._relabelled(generator.permutation(self.labels)) for _ in range(n_controls)]

    def _relabelled(self, labels: Float[np.ndarray, " prompts"]) -> "ConceptErasure":
        edits = tuple(covariances.edit(labels) for covariances in self.covariances)
        return replace(self, edits=edits, labels=labels)

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        places = [edit.hook_name for edit in self.edits]
        shown = places[0] if len(places) == 1 else f"{places[0]} to {places[-1]}"
        return (
            f"ConceptErasure({self.size} directions at {len(places)} hook points ({shown}), "
            f"category {self.category})"
        )


@checked
@measures
def leace(  # noqa: PLR0913 - the options of one fit, all by keyword
    model: HookedModel,
    towards: Prompts,
    against: Prompts,
    at: Annotated[Module | Units | str | Sequence[str], Elsewhere("units, or names")],
    *,
    spares_first: bool = True,
    shrinkage: bool = True,
    category: str | None = None,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    progress: bool = True,
) -> ConceptErasure:
    """Erase a concept so that no linear classifier finds it, with the smallest change (LEACE).

    LEACE is theorem 4.3 of Belrose et al. 2023 ("LEACE: Perfect linear concept erasure in closed
    form", arXiv 2306.03819); the how-to "Compare interventions" explains it. The guarantee holds
    for the tokens of the fit only; ``concept_effects`` tests other prompts. Several hook points are
    erased in order. Each fit runs the prompts once, under the earlier erasures (concept scrubbing,
    section 6).

    Args:
        model: The model.
        towards: Prompts with the concept: strings, or a frame with ``prompt``; each token is a
            sample.
        against: Prompts without the concept, otherwise similar.
        at: The coordinates to edit: a module or units, the name of a hook point such as
            ``"blocks.15.hook_resid_post"`` (all its coordinates), or several names.
        spares_first: Leave each prompt's first token, often an attention sink, out of the fit and
            the edit (the how-to gives the reasons). It cannot be identified in generation after a
            one-token prompt or in left-padded rows without a mask: pass a mask, or False.
        shrinkage: Estimate the covariance by linear shrinkage, for fits with hardly more tokens
            than coordinates. The concept is erased either way.
        category: The category of ``towards``, which ``module_effects`` uses as the own category.
        batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Cut prompts after this many tokens.
        progress: Show a progress bar.

    Returns:
        The intervention. It stores a ``d x d`` matrix for ``d`` coordinates of a hook point. A
        control takes ``d ** 3`` operations (seconds for thousands of coordinates).

    Raises:
        ModulesError: If concept-erasure (the extra ``erasure``) is not installed, the model lacks a
            hook point, ``at`` is empty, a set is not a list or a frame of at least two prompts, or
            an activation is not finite.
    """
    check_installed()
    check_model(model)
    frames = prompt_set_frames(towards, against)
    labels = np.repeat([1.0, 0.0], [len(frame) for frame in frames])
    texts = [text for frame in frames for text in frame["prompt"]]
    # If first tokens are spared, a prompt of one token would have nothing to fit.
    token_lists = tokenise(model, texts, max_tokens, least=2 if spares_first else 1)
    counted = [torch.arange(len(tokens)) >= int(spares_first) for tokens in token_lists]
    batch_size = batch_size_for(model, batch_size, token_lists, logits=False)
    listed = list(batches(token_lists, batch_size, counted))
    coordinates = _coordinates(model, at.units if isinstance(at, Module) else at)
    order = hook_order(model, coordinates)
    prompts = Tokens(model, listed, shrinkage, spares_first)
    covariances: list[Covariances] = []
    edits: list[LinearEdit] = []
    total = len(texts) * len(coordinates)
    with tqdm(total=total, desc="erase", unit="prompt", disable=not progress) as bar:
        for name in order:
            # With the edits so far: each hook point is fitted under the erasures before it.
            covariances.append(prompts.covariances(name, coordinates[name], edits, bar.update))
            edits.append(covariances[-1].edit(labels))
    return ConceptErasure(
        tuple(edits), tuple(covariances), labels, model_name(model), category=category
    )


def _coordinates(
    model: HookedModel, at: Units | str | Sequence[str]
) -> dict[str, Int[np.ndarray, " _chosen"] | None]:
    """Return the coordinates to erase from at each hook point; None for all of them."""
    if isinstance(at, Units):
        at.check_model(model)
        units = at.coordinates()
        coordinates = {units.hook_names[hook]: units.index[rows] for hook, rows in units.by_hook()}
    else:
        names = [at] if isinstance(at, str) else list(at) if isinstance(at, Iterable) else []
        coordinates = dict.fromkeys(names) if all(isinstance(name, str) for name in names) else {}
    if not coordinates:
        raise ModulesError(
            f"at should be units, or names of hook points; got {at!r}. "
            "'blocks.0.hook_resid_post' is usual."
        )
    return coordinates

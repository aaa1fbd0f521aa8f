"""LEACE: erase what tells two sets of prompts apart linearly, at some hook points."""

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
from tl_modules.models.batches import batches
from tl_modules.models.hooked_model import (
    FwdHooks,
    HookedModel,
    check_model,
    hook_order,
    model_name,
)
from tl_modules.models.token_arrays import TokenArray
from tl_modules.models.tokens import tokenise
from tl_modules.modules.module import Module
from tl_modules.related.covariances import Spread, Tokens, check_installed
from tl_modules.related.linear_edit import LinearEdit
from tl_modules.related.prompt_sets import side_frames
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units


@dataclass(frozen=True, eq=False, repr=False)
class ConceptErasure(Target):
    """A concept's linear trace taken out of some coordinates, hook point by hook point."""

    edits: tuple[LinearEdit, ...]
    """``x + (x - centre) @ read @ write``, in the order in which the model comes by."""

    spreads: tuple[Spread, ...]
    """What they were made from, from which controls are made."""

    labels: Float[np.ndarray, " prompts"]
    """1 for prompts with the concept, 0 for those without."""

    model: str
    """The model's name."""

    label: str = "leace"
    category: str | None = None

    @property
    def size(self) -> int:
        """How many directions are erased, over all hook points."""
        return sum(edit.read.shape[1] for edit in self.edits)

    def check_model(self, model: HookedModel) -> None:
        """Refuse a model without those hook points, or another one by name.

        Raises:
            ModulesError: If it is another one.
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
        """Hooks that erase the concept; see ``Target.fwd_hooks``."""
        where = Where.given(positions, attention_mask, rows)
        return [edit.hook(where) for edit in self.edits]

    def controls(self, n_controls: int, generator: np.random.Generator) -> list["ConceptErasure"]:
        """The same fit with the labels shuffled among the prompts.

        Where several hook points are edited, what each saw (under the true erasure before it) is
        not run again.

        Args:
            n_controls: How many.
            generator: Shuffles.

        Returns:
            The controls.
        """
        return [self._relabelled(generator.permutation(self.labels)) for _ in range(n_controls)]

    def _relabelled(self, labels: Float[np.ndarray, " prompts"]) -> "ConceptErasure":
        edits = tuple(spread.edit(labels) for spread in self.spreads)
        return replace(self, edits=edits, labels=labels)

    def __repr__(self) -> str:
        """One line, not its arrays."""
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
    batch_size: int = 16,
    max_tokens: int | None = None,
    progress: bool = True,
) -> ConceptErasure:
    """Erase, in closed form, all that a linear classifier could tell two sets of prompts apart by.

    LEACE (Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form",
    arXiv 2306.03819, section 4, theorem 4.3): ``r(x) = x - W+ P W (x - E[x])``, where ``W`` whitens
    the tokens' ``x`` at the chosen coordinates, ``W+`` is its pseudoinverse, and ``P`` projects on
    ``W Cov(x, z)``, ``z`` being 1 for tokens of the first set. Of all affine maps after which no
    linear classifier does better than a constant, it moves ``x`` least. That holds for the tokens
    it is fitted on; for others a probe tells (``concept_effects``). Several hook points are erased
    one after the other, each fitted on what the model computes under the erasures before it
    (concept scrubbing, section 6): one pass over the prompts for each.

    Args:
        model: The model.
        towards: Prompts with the concept: strings, or a frame with ``prompt``. Each token counts.
        against: Prompts without it, otherwise alike.
        at: Where: a module or units, the name of a hook point such as
            ``"blocks.15.hook_resid_post"`` for all its coordinates, or several names.
        spares_first: Leave each prompt's first token out of the fit, and as it is: there many
            models' activations are a thousand times larger (attention sinks), would decide the fit,
            and an edit of them harms every prompt. Of what is written after a prompt of a single
            token, and of left-padded rows without a mask, first tokens cannot be told: pass a mask,
            or False.
        shrinkage: Estimate the covariance by linear shrinkage, as fits tokens hardly more than
            coordinates; the concept is erased either way.
        category: What ``module_effects`` takes for its own category: that of ``towards``.
        batch_size: Rows of a forward pass.
        max_tokens: Cut prompts after so many tokens.
        progress: Show a progress bar.

    Returns:
        The intervention. It keeps ``d x d`` numbers for ``d`` coordinates of a hook point, from
        which ``controls`` are made: ``d ** 3`` operations each, seconds for thousands.

    Raises:
        ModulesError: If concept-erasure (the extra ``erasure``) is not installed, the model lacks a
            hook point, ``at`` names none and holds no units, a side is no list and no frame of two
            prompts or more, or an activation is not finite.
    """
    check_installed()
    check_model(model)
    frames = side_frames(towards, against)
    labels = np.repeat([1.0, 0.0], [len(frame) for frame in frames])
    texts = [text for frame in frames for text in frame["prompt"]]
    token_lists = tokenise(model, texts, max_tokens, least=2 if spares_first else 1)
    counted = [torch.arange(len(tokens)) >= int(spares_first) for tokens in token_lists]
    listed = list(batches(token_lists, batch_size, counted))
    coordinates = _coordinates(model, at.units if isinstance(at, Module) else at)
    order = hook_order(model, coordinates)
    prompts = Tokens(model, listed, shrinkage, spares_first)
    spreads: list[Spread] = []
    edits: list[LinearEdit] = []
    total = len(texts) * len(coordinates)
    with tqdm(total=total, desc="erase", unit="prompt", disable=not progress) as bar:
        for name in order:
            spreads.append(prompts.spread(name, coordinates[name], edits, bar.update))
            edits.append(spreads[-1].edit(labels))
    return ConceptErasure(
        tuple(edits), tuple(spreads), labels, model_name(model), category=category
    )


def _coordinates(
    model: HookedModel, at: Units | str | Sequence[str]
) -> dict[str, Int[np.ndarray, " _chosen"] | None]:
    """The coordinates to erase from at each hook point; None for all there are."""
    if isinstance(at, Units):
        at.check_model(model)
        units = at.coordinates()
        found = {units.hook_names[hook]: units.index[rows] for hook, rows in units.by_hook()}
    else:
        names = [at] if isinstance(at, str) else list(at) if isinstance(at, Iterable) else []
        found = dict.fromkeys(names) if all(isinstance(name, str) for name in names) else {}
    if not found:
        raise ModulesError(
            f"at should be units, or names of hook points; got {at!r}. "
            "'blocks.0.hook_resid_post' is usual."
        )
    return found

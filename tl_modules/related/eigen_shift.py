"""EigenShift: weaken the directions of the output layer that write one kind of text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from tl_modules.errors import ModulesError, check_at_least, check_type
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.positions import Positions, Where
from tl_modules.interventions.target import Target, check_made_from
from tl_modules.models.hooked_model import FwdHooks, HookedModel, check_model, model_name
from tl_modules.models.output_layer import output_layer, output_states
from tl_modules.models.token_arrays import TokenArray
from tl_modules.related.linear_edit import LinearEdit
from tl_modules.related.prompt_sets import side_frames
from tl_modules.runtime.arguments import checked
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.tables.stats import draw_like, rank_strata


@dataclass(frozen=True, eq=False, repr=False)
class EigenShift(Target):
    """Some singular components of the output layer, scaled.

    With ``W = U diag(s) V.T`` (``[d_vocab, d_model]``), scaling ``s_i`` by ``factor`` for the
    chosen components changes the logits as ``x + (factor - 1) V_c V_c.T x`` in the place of the
    final state ``x`` does: a hook, and no weight is touched.
    """

    hook_name: str
    """Where the output layer reads."""

    directions: Float[np.ndarray, "d_model components"]
    """``V``: what each component reads, largest singular value first, turned so that the states of
    both sets together project on it from 0 upwards."""

    singular_values: Float[np.ndarray, " components"]
    """``s``."""

    table: pd.DataFrame
    """One row a component, those that ``towards`` projects on more first: ``component``,
    ``singular_value``, ``towards`` and ``against`` (mean projection of each set's states),
    ``difference``, ``z`` (the difference in standard errors over prompts)."""

    components: Int[np.ndarray, " chosen"]
    """Those that are scaled."""

    factor: float
    """What their singular values are multiplied by."""

    model: str
    """The model's name."""

    label: str = "eigenshift"
    category: str | None = None

    @property
    def size(self) -> int:
        """How many components are scaled."""
        return len(self.components)

    def check_model(self, model: HookedModel) -> None:
        """Refuse a model without that hook point, or another one by name.

        Raises:
            ModulesError: If it is another one.
        """
        check_made_from(model, self.model, [self.hook_name], "EigenShift")

    def fwd_hooks(
        self,
        *,
        positions: Positions = None,
        attention_mask: TokenArray | None = None,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
    ) -> FwdHooks:
        """Hooks that scale the components; see ``Target.fwd_hooks``."""
        return [self._edit.hook(Where.given(positions, attention_mask, rows))]

    @cached_property
    def _edit(self) -> LinearEdit:
        """Made once: an experiment asks for the hooks in every batch."""
        directions = self.directions[:, self.components]
        width = len(directions)
        return LinearEdit(
            self.hook_name,
            width,
            np.arange(width),
            np.zeros(width),
            directions,
            (self.factor - 1) * directions.T,
        )

    def controls(self, n_controls: int, generator: np.random.Generator) -> list["EigenShift"]:
        """Random components of similar singular values, scaled alike.

        Components are ranked by singular value and cut into strata (see ``stats.rank_strata``); a
        control has as many random components of each stratum as this set has, its own among those
        drawn from.

        Args:
            n_controls: How many.
            generator: Draws them.

        Returns:
            The controls.
        """
        numbers = rank_strata(self.singular_values)
        strata = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
        own = np.isin(np.arange(len(numbers)), self.components)
        return [
            replace(self, components=draw_like(strata, own, generator)) for _ in range(n_controls)
        ]

    def __repr__(self) -> str:
        """One line, not its arrays."""
        return (
            f"EigenShift({self.size} of {len(self.singular_values)} components of the output layer "
            f"times {self.factor:g}, category {self.category})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: its components, and those that come next."""
        return html_table(repr(self), self.table.head(10))


@checked
@measures
def eigenshift(  # noqa: PLR0913 - the options of one fit, all by keyword
    model: HookedModel,
    towards: Prompts,
    against: Prompts,
    *,
    n_components: int = 5,
    factor: float = 0.1,
    n_new_tokens: int = 20,
    category: str | None = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
    progress: bool = True,
) -> EigenShift:
    """Scale down what the output layer writes for one set of prompts and not for another.

    EigenShift (Shaik et al. 2025, "Redefining Experts: Interpretable Decomposition of Language
    Models for Toxicity Mitigation", arXiv 2509.16660, section 5): the output layer is decomposed,
    ``W = U diag(s) V.T``; the states ``x`` from which the model writes on either set are projected,
    ``V.T x``; the components on which the first set's mean projection exceeds the other's most are
    scaled, ``s_i := factor s_i``. Nothing is trained. A decomposition leaves open which way its
    directions point; here they point to where the states of both sets lie.

    Args:
        model: The model.
        towards: Prompts that lead to what is to be weakened: strings, or a frame with ``prompt``.
        against: Prompts that do not, otherwise alike.
        n_components: How many components to scale.
        factor: What their singular values are multiplied by: 1 changes nothing, 0 removes them.
        n_new_tokens: States are read while the model writes so many tokens after each prompt,
            greedily; 0 for the prompts' own tokens, as if the model had written them.
        category: What ``module_effects`` takes for its own category: that of ``towards``.
        batch_size: Rows of a forward pass.
        max_tokens: Cut prompts after so many tokens.
        progress: Show progress bars.

    Returns:
        The intervention, with the table of all components. ``module_effects`` takes it beside
        modules, with controls: random components of like singular values.

    Raises:
        ModulesError: If the model does not expose its output layer, a side is no list and no frame
            of two prompts or more, or an option cannot be.
    """
    check_model(model)
    check_type(
        n_components, Integral, "n_components should be a whole number from 1 on", "5 is usual."
    )
    check_at_least("n_components", n_components, 1)
    if not np.isfinite(factor):
        raise ModulesError(f"factor should be a finite number; got {factor}. 0.1 is usual.")
    sides = side_frames(towards, against)
    layer = output_layer(model)
    # eigh of W.T W: V and s without the vocabulary-sized U.
    gram = layer.weight.double().T @ layer.weight.double()
    squares, directions = np.linalg.eigh(gram.cpu().numpy())
    singular_values, directions = np.sqrt(squares[::-1].clip(min=0)), directions[:, ::-1].copy()
    if n_components > len(singular_values):
        raise ModulesError(
            f"n_components should be at most d_model, {len(singular_values)}; got {n_components}."
        )
    options = {"n_new_tokens": n_new_tokens, "batch_size": batch_size, "max_tokens": max_tokens}
    projected = []
    for prompts in sides:
        states = output_states(model, layer, prompts, progress=progress, **options)
        projected.append(states @ directions)
    pooled = projected[0].mean(axis=0) + projected[1].mean(axis=0)
    signs = np.where(pooled < 0, -1.0, 1.0)
    table = _table(singular_values, *(each * signs for each in projected))
    return EigenShift(
        layer.hook_name,
        directions * signs,
        singular_values,
        table,
        np.sort(table["component"].to_numpy()[:n_components]),
        factor,
        model_name(model),
        category=category,
    )


def _table(
    singular_values: Float[np.ndarray, " components"],
    towards: Float[np.ndarray, "prompts components"],
    against: Float[np.ndarray, "others components"],
) -> pd.DataFrame:
    """How differently two sets project on each component."""
    means = towards.mean(axis=0), against.mean(axis=0)
    errors = [each.var(axis=0, ddof=1) / len(each) for each in (towards, against)]
    difference = means[0] - means[1]
    spread = np.sqrt(sum(errors))
    table = pd.DataFrame(
        {
            "component": np.arange(len(singular_values)),
            "singular_value": singular_values,
            "towards": means[0],
            "against": means[1],
            "difference": difference,
            "z": np.divide(difference, spread, out=np.full_like(spread, np.nan), where=spread > 0),
        }
    )
    order = np.argsort(-difference, kind="stable")
    return table.iloc[order].reset_index(drop=True)

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
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import FwdHooks, HookedModel, check_model, model_name
from tl_modules.models.output_layer import output_layer, output_states
from tl_modules.models.token_arrays import TokenArray
from tl_modules.related.linear_edit import LinearEdit
from tl_modules.related.prompt_sets import prompt_set_frames
from tl_modules.runtime.arguments import checked
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.tables.strata import draw_like, rank_strata


@dataclass(frozen=True, eq=False, repr=False)
class EigenShift(Target):
    """An intervention that scales singular components of the output layer.

    Let ``W = U diag(s) V.T`` (``[d_vocab, d_model]``). Scaling ``s_i`` by ``factor`` for the chosen
    components changes the logits in the same way as replacing the final state ``x`` by
    ``x + (factor - 1) V_c V_c.T x``. A hook does the latter, so no weight changes.
    """

    hook_name: str
    """The hook point that the output layer reads."""

    directions: Float[np.ndarray, "d_model components"]
    """``V``: the direction that each component reads, largest singular value first. Its sign is
    chosen so that the mean projection of both sets' states is not negative."""

    singular_values: Float[np.ndarray, " components"]
    """``s``: the singular values, in descending order."""

    table: pd.DataFrame
    """One row per component, sorted by descending ``difference``: ``component``,
    ``singular_value``, ``towards`` and ``against`` (mean projection of each set's states),
    ``difference``, ``z`` (the difference in standard errors over prompts)."""

    components: Int[np.ndarray, " scaled"]
    """The numbers of the scaled components."""

    factor: float
    """The factor of the scaled singular values."""

    model: str
    """The model's name."""

    label: str = "eigenshift"
    category: str | None = None

    @property
    def size(self) -> int:
        """The number of scaled components."""
        return len(self.components)

    def check_model(self, model: HookedModel) -> None:
        """Raise unless the model is the one that the components were computed for.

        Raises:
            ModulesError: If the model lacks the hook point or has another name.
        """
        check_made_from(model, self.model, [self.hook_name], "EigenShift")

    def fwd_hooks(
        self,
        *,
        positions: Positions = None,
        attention_mask: TokenArray | None = None,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
    ) -> FwdHooks:
        """Return a hook that scales the components; see ``Target.fwd_hooks``."""
        return [self._edit.hook(Where.given(positions, attention_mask, rows))]

    @cached_property
    def _edit(self) -> LinearEdit:
        """The edit, made once for all batches of an experiment."""
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
        """Draw random components of similar singular values, which are scaled in the same way.

        Components are ranked by singular value and divided into strata (see ``rank_strata``).
        A control has as many random components of each stratum as this intervention. The
        intervention's own components can be drawn too.

        Args:
            n_controls: The number of controls.
            generator: Draws the components.

        Returns:
            The controls.
        """
        # Components of large singular values change more logits, so a control should match them.
        numbers = rank_strata(self.singular_values)
        strata = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
        is_scaled = np.isin(np.arange(len(numbers)), self.components)
        return [
            replace(self, components=draw_like(strata, is_scaled, generator))
            for _ in range(n_controls)
        ]

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        return (
            f"EigenShift({self.size} of {len(self.singular_values)} components of the output layer "
            f"times {self.factor:g}, category {self.category})"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the first components of the table."""
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
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    progress: bool = True,
) -> EigenShift:
    """Weaken the output layer's directions for one kind of text, without training (EigenShift).

    The method is EigenShift (Shaik et al. 2025, "Redefining Experts: Interpretable Decomposition of
    Language Models for Toxicity Mitigation", arXiv 2509.16660, section 5). It decomposes the output
    layer, ``W = U diag(s) V.T``. For both sets of prompts, it projects the states ``x`` from which
    the model generates: ``V.T x``. It scales, ``s_i := factor s_i``, the components whose mean
    projection for ``towards`` most exceeds that for ``against``. A decomposition leaves signs open;
    here they make the mean projection of both sets' states non-negative.

    Args:
        model: The model.
        towards: Prompts that lead to the text to weaken: strings, or a frame with ``prompt``.
        against: Prompts that lead to other text, otherwise similar.
        n_components: The number of components to scale.
        factor: The factor of the singular values: 1 changes nothing, 0 removes the components.
        n_new_tokens: The number of tokens that the model generates greedily after each prompt while
            its states are read. With 0, the states at the prompts' own tokens are read instead.
        category: The category of ``towards``, which ``module_effects`` uses as the own category.
        batch_size: Prompts per forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Cut prompts after this many tokens.
        progress: Show progress bars.

    Returns:
        The intervention, with a table of all components. Its controls in ``module_effects`` are
        random components of similar singular values.

    Raises:
        ModulesError: If the model does not expose its output layer, a set is not a list or a frame
            of at least two prompts, or an option is not valid.
    """
    check_model(model)
    check_type(n_components, Integral, "n_components should be a whole number >= 1", "5 is usual.")
    check_at_least("n_components", n_components, 1)
    if not np.isfinite(factor):
        raise ModulesError(f"factor should be a finite number; got {factor}. 0.1 is usual.")
    frames = prompt_set_frames(towards, against)
    layer = output_layer(model)
    # eigh of W.T W gives V and s without U, which has d_vocab rows.
    gram = layer.weight.double().T @ layer.weight.double()
    squares, directions = np.linalg.eigh(gram.cpu().numpy())
    singular_values, directions = np.sqrt(squares[::-1].clip(min=0)), directions[:, ::-1].copy()
    if n_components > len(singular_values):
        raise ModulesError(
            f"n_components should be at most d_model, {len(singular_values)}; got {n_components}."
        )
    options = {"n_new_tokens": n_new_tokens, "batch_size": batch_size, "max_tokens": max_tokens}
    projected = []
    for prompts in frames:
        states = output_states(model, layer, prompts, progress=progress, **options)
        projected.append(states @ directions)
    # eigh returns arbitrary signs; without a rule, the sign would decide which components count as
    # written more for ``towards``.
    pooled = projected[0].mean(axis=0) + projected[1].mean(axis=0)
    signs = np.where(pooled < 0, -1.0, 1.0)
    table = _table(singular_values, *(projections * signs for projections in projected))
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
    """Compare the projections of two sets on each component."""
    means = towards.mean(axis=0), against.mean(axis=0)
    variances = [values.var(axis=0, ddof=1) / len(values) for values in (towards, against)]
    difference = means[0] - means[1]
    error = np.sqrt(sum(variances))
    table = pd.DataFrame(
        {
            "component": np.arange(len(singular_values)),
            "singular_value": singular_values,
            "towards": means[0],
            "against": means[1],
            "difference": difference,
            "z": np.divide(difference, error, out=np.full_like(error, np.nan), where=error > 0),
        }
    )
    order = np.argsort(-difference, kind="stable")
    return table.iloc[order].reset_index(drop=True)

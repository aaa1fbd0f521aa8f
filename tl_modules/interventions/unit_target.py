"""Targets that are sets of units: modules, and parts of a model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Shaped

from tl_modules.interventions.ablation import Ablation
from tl_modules.interventions.attaching import Attached
from tl_modules.interventions.attachments import attach_edit
from tl_modules.interventions.hooks import hooked, unit_hooks
from tl_modules.interventions.positions import Positions
from tl_modules.interventions.prepared_units import AblatedUnits, OwnAblation
from tl_modules.interventions.replacements import HasUnitMeans, Method
from tl_modules.interventions.target import Target
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.models.token_arrays import TokenArray
from tl_modules.units import Units


class UnitTarget(Target):
    """A set of units as a target.

    A subclass defines ``label``, ``category`` and ``units``. Its controls are random units of the
    same layers, unless it defines ``controls``.

    In an experiment such as ``module_effects`` the options ``method``, ``reference``, ``factor``,
    ``controls``, ``exclude`` and ``keep_only`` apply, unless the subclass sets a ``method``; then
    it keeps its method, its reference and its controls. For an intervention with other hooks,
    derive from ``Target`` instead.
    """

    units: Units
    """The units."""

    method: Method | None = None
    """How the units' activations are changed; None leaves the choice to the experiment."""

    reference: HasUnitMeans | None = None
    """Where ``"mean"`` takes its values from by default."""

    @property
    def size(self) -> int:
        """The number of units."""
        return len(self.units)

    def check_model(self, model: HookedModel) -> None:
        """Refuse a model without these units.

        Args:
            model: The model.

        Raises:
            ModulesError: If the model lacks one of the units' hook points.
        """
        self.units.check_model(model)

    def fwd_hooks(  # noqa: PLR0913 - the options of one intervention, all by keyword
        self,
        method: Method | None = None,
        reference: HasUnitMeans | None = None,
        *,
        source: Any = None,
        factor: float | None = None,
        positions: Positions = None,
        attention_mask: TokenArray | None = None,
        keep_only: bool = False,
        seed: int = 0,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
    ) -> FwdHooks:
        """Hooks that intervene on the units, for ``model.run_with_hooks(tokens, fwd_hooks=...)``.

        The how-to "Ablate a module in a notebook" explains methods, positions and generation.

        Args:
            method: What replaces each unit's activation; by default the target's own method, for a
                module ``"mean"``. ``"zero"``: 0. ``"mean"``: its mean over a reference's tokens.
                ``"position_mean"``: its mean over the reference's tokens at the same position.
                ``"resample"``: its value at a random token of the reference, the same token
                for all units. ``"patch"``: its value in ``source``. ``"scale"``: its value times
                ``factor`` (steering).
            reference: Source of means and tokens; by default the means of the activations that the
                modules were discovered on. ``collect_reference`` makes one for all methods.
            source: The activation cache of a run on paired (counterfactual) prompts, of the same
                batch and length.
            factor: Multiplier of ``"scale"``; a negative factor changes the sign.
            positions: Where to intervene: None for everywhere, ``"content"`` for all but a prompt's
                first token, ``"last"`` for the last token of each pass, a number or several, a
                slice, or a mask ``[batch, pos]``; numbers, slices and masks count from the
                prompt's first token, padding included. With None, means are over all tokens, else
                over content; see ``content_positions``.
            attention_mask: 1 or True where a token is real, ``[batch, pos]`` of the whole prompt.
                Padding is not changed, and ``"last"`` is the last real token.
            keep_only: Intervene on every unit of the site except these, to test whether these
                suffice.
            seed: Seed of ``"resample"``.
            rows: Each prompt's number, by default from 0 in every run. ``"resample"`` draws by this
                number, the seed and the position.

        Returns:
            One ``(hook_name, fn)`` pair per hook point. If positions matter and a run has a
            key-value cache, use ``ablated`` or ``attach``: the pairs raise there.

        Raises:
            ModulesError: If the method is unknown or lacks what it needs, or positions or a mask
                are malformed.
        """
        return unit_hooks(
            self.units.complement() if keep_only else self.units,
            self._method(method),
            self.reference if reference is None else reference,
            source=source,
            factor=factor,
            positions=positions,
            attention_mask=attention_mask,
            seed=seed,
            rows=rows,
        )

    def _method(self, method: Method | None = None) -> Method:
        """The method given, or else the target's own, or else ``"mean"``."""
        if method is not None:
            return method
        return "mean" if self.method is None else self.method

    def controls(self, n_controls: int, generator: np.random.Generator) -> Sequence[Target]:
        """Draw random sets with as many units in each layer as the target has.

        Args:
            n_controls: How many.
            generator: Draws them.

        Returns:
            The controls.
        """
        usual = Ablation(method=self._method())
        return AblatedUnits.of(self, usual).controls(n_controls, generator)

    def in_experiment(self, ablation: Ablation) -> "Target":
        """The target as ``module_effects`` runs it; see ``UnitTarget``.

        Args:
            ablation: The experiment's options.

        Returns:
            The units with hooks that are built once.

        Raises:
            ModulesError: If an option does not fit, or ``exclude`` belongs to another model.
        """
        if self.method is None:
            return AblatedUnits.of(self, ablation)
        super().in_experiment(ablation)
        return OwnAblation.of(self, self.method, ablation.positions)

    @contextmanager
    def ablated(  # noqa: PLR0913 - the options of one intervention, all by keyword
        self,
        model: HookedModel,
        method: Method | None = None,
        reference: HasUnitMeans | None = None,
        *,
        source: Any = None,
        factor: float | None = None,
        positions: Positions = None,
        attention_mask: TokenArray | None = None,
        keep_only: bool = False,
        seed: int = 0,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
    ) -> Iterator[HookedModel]:
        """Intervene in every run inside the ``with``; afterwards all hooks are gone.

        Args:
            model: The model that the units belong to.
            method: See ``fwd_hooks``.
            reference: See ``fwd_hooks``.
            source: See ``fwd_hooks``.
            factor: See ``fwd_hooks``.
            positions: See ``fwd_hooks``.
            attention_mask: See ``fwd_hooks``.
            keep_only: See ``fwd_hooks``.
            seed: See ``fwd_hooks``.
            rows: See ``fwd_hooks``.

        Yields:
            The model.

        Raises:
            ModulesError: If the units belong to another model, or as in ``fwd_hooks``.
        """
        self.check_model(model)
        hooks = self.fwd_hooks(
            method,
            reference,
            source=source,
            factor=factor,
            positions=positions,
            attention_mask=attention_mask,
            keep_only=keep_only,
            seed=seed,
            rows=rows,
        )
        with hooked(model, hooks):
            yield model

    def attach(  # noqa: PLR0913 - the options of one intervention, all by keyword
        self,
        model: HookedModel,
        method: Method | None = None,
        reference: HasUnitMeans | None = None,
        *,
        source: Any = None,
        factor: float | None = None,
        positions: Positions = None,
        attention_mask: TokenArray | None = None,
        keep_only: bool = False,
        seed: int = 0,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
    ) -> Attached:
        """Intervene in every run of the model from now on, until the handle is removed.

        The model's own ``reset_hooks`` does not remove the hooks. If the handle is lost,
        ``attached(model)`` lists the hooks and ``detach_all(model)`` removes them. A second
        ``attach`` of the same units, method and options warns, because both edits act.

        Args:
            model: The model that the units belong to.
            method: See ``fwd_hooks``.
            reference: See ``fwd_hooks``.
            source: See ``fwd_hooks``.
            factor: See ``fwd_hooks``.
            positions: See ``fwd_hooks``.
            attention_mask: See ``fwd_hooks``.
            keep_only: See ``fwd_hooks``.
            seed: See ``fwd_hooks``.
            rows: See ``fwd_hooks``.

        Returns:
            A handle: ``handle.remove()`` removes the hooks; so does the end of a ``with``.

        Raises:
            ModulesError: If the units belong to another model, or as in ``fwd_hooks``.
        """
        self.check_model(model)
        options: dict[str, Any] = {
            "source": source,
            "factor": factor,
            "positions": positions,
            "attention_mask": attention_mask,
            "keep_only": keep_only,
            "seed": seed,
            "rows": rows,
        }
        hooks = self.fwd_hooks(method, reference, **options)
        return attach_edit(model, hooks, self, self._method(method), (self.units, options))

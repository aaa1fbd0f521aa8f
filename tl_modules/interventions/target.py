"""What causal tests intervene on: modules, and whatever else changes a model's activations."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Shaped

from tl_modules.errors import ModulesError
from tl_modules.interventions.ablation import Ablation
from tl_modules.interventions.attaching import Attached
from tl_modules.interventions.attachments import attach_edit
from tl_modules.interventions.hooks import hooked
from tl_modules.interventions.positions import Positions
from tl_modules.models.hooked_model import FwdHooks, HookedModel, model_name
from tl_modules.models.token_arrays import TokenArray
from tl_modules.units import Units


class Target(ABC):
    """An intervention on a model that causal tests compare with its controls.

    Modules are targets. A target of your own defines ``label``, ``category``, ``size``,
    ``check_model``, ``fwd_hooks`` and ``controls``; ``module_effects``, ``concept_effects`` and
    ``dissociation`` then measure it like a module. If it also has an attribute ``units``
    (``Units``), it can be patched and attributed to: ``get_act_patch_module``,
    ``attribute_modules``, ``module_effects(..., method="patch")``. A set of units needs less code
    as a ``UnitTarget``.
    """

    label: Any
    """The target's name in tables: a number, as for modules, or a text."""

    category: str | None
    """The category of prompts that the target is meant for, if any."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The number of parts (components, directions, units) that the target changes."""

    @abstractmethod
    def check_model(self, model: HookedModel) -> None:
        """Refuse a model other than the one that the target was made from.

        Args:
            model: The model.

        Raises:
            ModulesError: If it is another model.
        """

    @abstractmethod
    def fwd_hooks(
        self,
        *,
        positions: Positions = None,
        attention_mask: TokenArray | None = None,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
    ) -> FwdHooks:
        """Hooks that intervene, for ``model.run_with_hooks(tokens, fwd_hooks=...)``.

        Args:
            positions: Where to intervene; see ``Module.fwd_hooks``.
            attention_mask: 1 or True where a token is real, ``[batch, pos]``.
            rows: The number of each prompt in the batch; from 0 by default.

        Returns:
            One ``(hook_name, fn)`` pair per hook point. Causal tests stack several interventions in
            a forward pass, so each function needs a method ``apply_(activation)`` that changes a
            part of a batch in place, like the hooks of modules.
        """

    @abstractmethod
    def controls(self, n_controls: int, generator: np.random.Generator) -> Sequence["Target"]:
        """Interventions of the same kind and size, drawn at random.

        Args:
            n_controls: How many.
            generator: Draws them. From one state of the generator, the first controls should be
                the same however many are asked for: a test that needs more asks for all anew.

        Returns:
            The controls. A target with a finite number of possible controls may return fewer.
        """

    def in_experiment(self, ablation: Ablation) -> "Target":
        """The target as ``module_effects`` runs it, with these options.

        The options do not apply to a target with an intervention of its own.

        Args:
            ablation: The experiment's options.

        Returns:
            The target itself, unless a subclass follows the options.

        Raises:
            ModulesError: If ``keep_only`` is set and the target has no complement.
        """
        if ablation.keep_only:
            raise ModulesError(
                f"keep_only=True goes with modules; {self.label!r} has no complement. Leave one of "
                "them out."
            )
        return self

    @contextmanager
    def ablated(
        self,
        model: HookedModel,
        *,
        positions: Positions = None,
        attention_mask: TokenArray | None = None,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
    ) -> Iterator[HookedModel]:
        """Intervene in every run inside the ``with``; afterwards all hooks are gone.

        Args:
            model: The model that the target was made from.
            positions: See ``fwd_hooks``.
            attention_mask: See ``fwd_hooks``.
            rows: See ``fwd_hooks``.

        Yields:
            The model.

        Raises:
            ModulesError: If the target belongs to another model.
        """
        self.check_model(model)
        hooks = self.fwd_hooks(positions=positions, attention_mask=attention_mask, rows=rows)
        with hooked(model, hooks):
            yield model

    def attach(
        self,
        model: HookedModel,
        *,
        positions: Positions = None,
        attention_mask: TokenArray | None = None,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
    ) -> Attached:
        """Intervene in every run of the model from now on, until the handle is removed.

        ``attached(model)`` lists what is attached, ``detach_all(model)`` removes it. A second
        ``attach`` of the same target and options warns, because both edits act.

        Args:
            model: The model that the target was made from.
            positions: See ``fwd_hooks``.
            attention_mask: See ``fwd_hooks``.
            rows: See ``fwd_hooks``.

        Returns:
            A handle: ``handle.remove()`` removes the hooks; so does the end of a ``with``.

        Raises:
            ModulesError: If the target belongs to another model.
        """
        self.check_model(model)
        options = {"positions": positions, "attention_mask": attention_mask, "rows": rows}
        return attach_edit(model, self.fwd_hooks(**options), self, None, (self, options))


_Target = TypeVar("_Target", bound=Target)


def as_targets(targets: _Target | Iterable[_Target]) -> list[_Target]:
    """One target, several, or a module set, as a list.

    Args:
        targets: The targets.

    Returns:
        The targets, in their order.

    Raises:
        ModulesError: If there is none, or two share a label.
    """
    listed = [targets] if isinstance(targets, Target) else list(targets)
    if not listed:
        raise ModulesError("modules should hold at least one module; got none.")
    labels = [target.label for target in listed]
    if len(set(map(str, labels))) < len(labels):
        raise ModulesError(
            f"modules should have different labels, which tell their rows apart; got {labels}. "
            "Pass one set at a time, or dataclasses.replace(module, label=...)."
        )
    return listed


def units_of(target: Target) -> Units | None:
    """The units that a target consists of; None for a target that is no set of units."""
    units = getattr(target, "units", None)
    return units if isinstance(units, Units) else None


def units_on_one_site(targets: Sequence[Target]) -> list[Units]:
    """The units of targets that are tested together.

    Args:
        targets: Modules, or other targets that consist of units.

    Returns:
        The units of each.

    Raises:
        ModulesError: If a target does not consist of units, or two belong to different models or
            sites.
    """
    found = []
    for target in targets:
        units = units_of(target)
        if units is None:
            raise ModulesError(
                f"modules should consist of units here; {target.label!r} is a "
                f"{type(target).__name__} without any. Leave it out, or test it with "
                "module_effects."
            )
        found.append(units)
    if not all(units.same_hooks(found[0]) for units in found):
        raise ModulesError(
            "modules should belong to one model and site; their hook points or widths differ."
        )
    return found


def check_made_from(model: HookedModel, name: str, hook_names: Sequence[str], kind: str) -> None:
    """Refuse a model other than the one that a target was made from.

    Args:
        model: The model.
        name: The name of the model that the target was made from.
        hook_names: The hook points that the target needs.
        kind: What messages call the target.

    Raises:
        ModulesError: If the model has another name, or lacks a hook point.
    """
    if model_name(model) != name or any(each not in model.hook_dict for each in hook_names):
        shown = ", ".join(map(repr, hook_names[:2])) + (", ..." if len(hook_names) > 2 else "")
        raise ModulesError(
            f"This {kind} was made from {name!r}, at {shown}; the model is "
            f"{model_name(model)!r}. Make it from the model itself."
        )

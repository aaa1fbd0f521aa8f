"""What causal tests can intervene on besides modules."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Shaped

from tl_modules.errors import ModulesError
from tl_modules.interventions.attachments import attach_edit
from tl_modules.interventions.hooks import Attached, following
from tl_modules.interventions.positions import Positions
from tl_modules.models.hooked_model import FwdHooks, HookedModel, model_name
from tl_modules.models.token_arrays import TokenArray


class Target(ABC):
    """An intervention that ``module_effects`` holds against its controls, as it does a module."""

    label: str
    """What tables call it."""

    category: str | None
    """The category of prompts that it is meant for, if any."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many parts (components, directions, units) it changes."""

    @abstractmethod
    def check_model(self, model: HookedModel) -> None:
        """Refuse another model than it was made from.

        Raises:
            ModulesError: If it is another one.
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
            positions: Where; see ``Module.fwd_hooks``.
            attention_mask: 1 or True where a token is real, ``[batch, pos]``.
            rows: Each prompt's number; from 0 by default.

        Returns:
            One ``(hook_name, fn)`` pair a hook point touched.
        """

    @abstractmethod
    def controls(self, n_controls: int, generator: np.random.Generator) -> Sequence["Target"]:
        """Interventions of the same kind and size, drawn at random.

        Args:
            n_controls: How many.
            generator: Draws them.

        Returns:
            The controls.
        """

    @contextmanager
    def ablated(self, model: HookedModel, **options: Any) -> Iterator[HookedModel]:
        """Intervene in whatever runs inside the ``with``; every hook is gone afterwards.

        Args:
            model: The model that it was made from.
            options: What ``fwd_hooks`` takes.

        Yields:
            The model.

        Raises:
            ModulesError: If it belongs to another model.
        """
        self.check_model(model)
        hooks = self.fwd_hooks(**options)
        with following(model, hooks), model.hooks(fwd_hooks=hooks):
            yield model

    def attach(self, model: HookedModel, **options: Any) -> Attached:
        """Intervene in everything the model runs from now on, until the handle is removed.

        ``attached(model)`` lists what is attached, ``detach_all(model)`` removes it. A second
        ``attach`` of the same target and options warns: both edits act.

        Args:
            model: The model that it was made from.
            options: What ``fwd_hooks`` takes.

        Returns:
            A handle: ``handle.remove()`` takes the hooks away; so does the end of a ``with``.

        Raises:
            ModulesError: If it belongs to another model.
        """
        self.check_model(model)
        return attach_edit(model, self.fwd_hooks(**options), self, None, (self, options))


def check_made_from(model: HookedModel, name: str, hook_names: Sequence[str], kind: str) -> None:
    """Refuse another model than a target was made from.

    Args:
        model: The model.
        name: The name of the model that it was made from.
        hook_names: The hook points that it needs.
        kind: What it is.

    Raises:
        ModulesError: If the model lacks one of them, or has another name.
    """
    if model_name(model) != name or any(each not in model.hook_dict for each in hook_names):
        shown = ", ".join(map(repr, hook_names[:2])) + (", ..." if len(hook_names) > 2 else "")
        raise ModulesError(
            f"This {kind} was made from {name!r}, at {shown}; the model is "
            f"{model_name(model)!r}. Make it from the model itself."
        )

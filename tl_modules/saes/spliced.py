"""A hooked model that adds the hook points of SAEs' latents to those of another model."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from tl_modules.errors import ModulesError
from tl_modules.interventions.attaching import attach_hooks
from tl_modules.models.hooked_model import FwdHooks, HookedModel, model_name
from tl_modules.models.sae_latents import LatentPoint
from tl_modules.units import Units


class SplicedModel:
    """A model with SAEs: a ``HookedModel`` that also has the hook points of the SAEs' latents.

    Hooks on latents act in ``run_with_hooks``, under ``hooks``, and while attached
    (``Module.attach``); attached hooks also act in plain calls and in ``generate``. All other
    attributes are the model's own: ``tokenizer``, ``generate``, ``cfg``, ... Methods that return
    the model (``eval()``, ``to()``) return it without the SAEs.
    """

    def __init__(
        self, model: HookedModel, points: Mapping[str, LatentPoint], latents: Units
    ) -> None:
        """Hold the parts that ``with_saes`` checked.

        Args:
            model: The model.
            points: The latents' hook points by name.
            latents: All latents, as units.
        """
        self.model = model
        """The model itself."""
        self.sites = {"sae": latents}
        """The units of the additional site ``"sae"``."""
        self.to_tokens: Callable[..., Any] = model.to_tokens
        """The model's own method."""
        self._points = points

    @property
    def cfg(self) -> Any:
        """The model's configuration."""
        return self.model.cfg

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """The model's hook points by name, then the latents'."""
        return {**self.model.hook_dict, **self._points}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        run: Any = self.model
        return run(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Look up any other attribute on the model."""
        # While an object is copied or unpickled, ``model`` is not set yet: avoid a recursion.
        if name == "model" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.model, name)

    @contextmanager
    def hooks(
        self, fwd_hooks: Iterable[tuple[Any, Any]] = (), *args: Any, **options: Any
    ) -> Iterator["SplicedModel"]:
        """Attach hooks to the model's hook points and to latents inside a ``with``.

        Args:
            fwd_hooks: Pairs of a name, or a function that selects names, and a hook function.
            args: Further arguments of the model's own ``hooks``.
            options: Further keyword arguments of the model's own ``hooks``. Backward hooks cannot
                be on latents.

        Yields:
            This model.

        Raises:
            ModulesError: If an option is not possible for hooks on latents.
        """
        own, latent = self._split(fwd_hooks)
        if latent:
            _check_options(options, {"reset_hooks_end": True})
        with attach_hooks(self, latent), self.model.hooks(own, *args, **options):
            yield self

    def run_with_hooks(
        self, *args: Any, fwd_hooks: Iterable[tuple[Any, Any]] = (), **options: Any
    ) -> Any:
        """Run the model with hooks on its hook points and on latents.

        Args:
            args: The model's own arguments: the tokens.
            fwd_hooks: Pairs of a name, or a function that selects names, and a hook function.
            options: Further arguments of the model's own ``run_with_hooks``.

        Returns:
            The model's output.

        Raises:
            ModulesError: If an option is not possible for hooks on latents.
        """
        own, latent = self._split(fwd_hooks)
        if latent:
            _check_options(options, {"reset_hooks_end": True, "remove_batch_dim": False})
        with attach_hooks(self, latent):
            return self.model.run_with_hooks(*args, fwd_hooks=own, **options)

    def run_with_cache(
        self,
        *args: Any,
        names_filter: str | Iterable[str] | Callable[[str], bool] | None = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Run the model, and return its output with a cache of activations and latents.

        Args:
            args: The model's own arguments: the tokens.
            names_filter: The hook points to keep; by default all, including those of latents.
            options: Further arguments of the model's own ``run_with_cache``.

        Returns:
            The output, and the cache.

        Raises:
            ModulesError: If an option is not possible for latents.
        """
        for_model: Any = names_filter
        if names_filter is None:
            wanted = list(self._points)
        elif callable(names_filter):
            wanted = [name for name in self._points if names_filter(name)]
        else:
            names = [names_filter] if isinstance(names_filter, str) else list(names_filter)
            wanted = [name for name in names if name in self._points]
            for_model = [name for name in names if name not in self._points]
        if wanted:
            _check_options(options, {"pos_slice": None, "reset_hooks_end": True})
        latents_of: dict[str, torch.Tensor] = {}
        reads: FwdHooks = [(name, partial(_keep, latents_of, name)) for name in wanted]
        with attach_hooks(self, reads):
            output, cache = self.model.run_with_cache(*args, names_filter=for_model, **options)
        stored = getattr(cache, "cache_dict", cache)  # an ActivationCache, or a plain dictionary
        for name, latents in latents_of.items():
            kept = latents.to(options.get("device"))
            stored[name] = kept[0] if options.get("remove_batch_dim") else kept
        return output, cache

    def _split(self, fwd_hooks: Iterable[tuple[Any, Any]]) -> tuple[list[Any], FwdHooks]:
        """Split hooks into those for the model's own hook points and those for latents."""
        for_model, for_latents = [], []
        for name, fn in fwd_hooks:
            if callable(name):  # a function may select names of both kinds
                for_latents += [(point, fn) for point in self._points if name(point)]
                for_model.append((name, fn))
            elif name in self._points:
                for_latents.append((name, fn))
            else:
                for_model.append((name, fn))
        return for_model, for_latents

    def __repr__(self) -> str:
        """Return the model's name and the number of latents."""
        return f"SplicedModel({model_name(self.model)}, {self.sites['sae']!r})"


def _keep(
    latents_of: dict[str, torch.Tensor], name: str, latents: torch.Tensor, hook: object = None
) -> None:
    del hook
    latents_of[name] = latents.detach()


def _check_options(options: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    """Raise for options that hooks on latents do not support."""
    for name, value in only.items():
        if options.get(name, value) is not value:
            raise ModulesError(
                f"With latents {name} should be {value}; got {options[name]!r}. Leave it out; "
                "Module.attach leaves hooks on the model."
            )

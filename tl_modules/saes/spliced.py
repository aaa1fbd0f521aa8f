"""A model with SAEs: a hooked model that has the hook points of their latents besides its own."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from tl_modules.errors import ModulesError
from tl_modules.interventions.hooks import attach_hooks
from tl_modules.models.hooked_model import FwdHooks, HookedModel, model_name
from tl_modules.models.sae_latents import LatentPoint
from tl_modules.units import Units


class SplicedModel:
    """A model with SAEs, as a ``HookedModel`` that has their latents' hook points besides its own.

    Hooks on latents act while they are there: in ``run_with_hooks``, under ``hooks``, or attached
    (``Module.attach``); then also in plain calls and ``generate``. Everything else is the model's
    own, untouched: ``tokenizer``, ``generate``, ``cfg``, ...; what returns the model (``eval()``,
    ``to()``) returns it without the SAEs.
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
        """The units it has besides those of the model's own sites."""
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
        """Whatever else the model has."""
        if name == "model" or name.startswith("__"):  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.model, name)

    def to_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """Tokens of a string, as the model makes them."""
        return self.model.to_tokens(*args, **kwargs)

    @contextmanager
    def hooks(
        self, fwd_hooks: Iterable[tuple[Any, Any]] = (), *args: Any, **options: Any
    ) -> Iterator["SplicedModel"]:
        """Context manager: hooks on the model's hook points and on latents, gone when it ends.

        Args:
            fwd_hooks: Names, or functions that choose names, with hook functions.
            args: What else the model's own ``hooks`` takes.
            options: The same by keyword. Backward hooks are for the model's own hook points.

        Yields:
            This model.

        Raises:
            ModulesError: If an option cannot hold for hooks on latents.
        """
        own, latent = self._split(fwd_hooks)
        if latent:
            _check_options(options, {"reset_hooks_end": True})
        with attach_hooks(self, latent), self.model.hooks(own, *args, **options):
            yield self

    def run_with_hooks(
        self, *args: Any, fwd_hooks: Iterable[tuple[Any, Any]] = (), **options: Any
    ) -> Any:
        """Run with hooks on the model's hook points and on latents, gone afterwards.

        Args:
            args: The model's own arguments: the tokens.
            fwd_hooks: Names, or functions that choose names, with hook functions.
            options: What else the model's own ``run_with_hooks`` takes.

        Returns:
            What the model returns.

        Raises:
            ModulesError: If an option cannot hold for hooks on latents.
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
        """Run, and return the output with the model's activation cache, the latents in it.

        Args:
            args: The model's own arguments: the tokens.
            names_filter: Which hook points to keep; all, the latents' too, without it.
            options: What else the model's own ``run_with_cache`` takes.

        Returns:
            The output, and the cache.

        Raises:
            ModulesError: If an option cannot hold for latents.
        """
        own: Any = names_filter
        if names_filter is None:
            wanted = list(self._points)
        elif callable(names_filter):
            wanted = [name for name in self._points if names_filter(name)]
        else:
            names = [names_filter] if isinstance(names_filter, str) else list(names_filter)
            wanted = [name for name in names if name in self._points]
            own = [name for name in names if name not in self._points]
        if wanted:
            _check_options(options, {"pos_slice": None, "reset_hooks_end": True})
        found: dict[str, torch.Tensor] = {}
        reads: FwdHooks = [(name, partial(_keep, found, name)) for name in wanted]
        with attach_hooks(self, reads):
            output, cache = self.model.run_with_cache(*args, names_filter=own, **options)
        stored = getattr(cache, "cache_dict", cache)  # an ActivationCache, or a plain dictionary
        for name, latents in found.items():
            kept = latents.to(options.get("device"))
            stored[name] = kept[0] if options.get("remove_batch_dim") else kept
        return output, cache

    def _split(self, fwd_hooks: Iterable[tuple[Any, Any]]) -> tuple[list[Any], FwdHooks]:
        """The hooks for the model's own hook points, and those for latents."""
        own, latent = [], []
        for name, fn in fwd_hooks:
            if callable(name):
                latent += [(point, fn) for point in self._points if name(point)]
            (latent if not callable(name) and name in self._points else own).append((name, fn))
        return own, latent

    def __repr__(self) -> str:
        """The model's name, and how many latents there are."""
        return f"SplicedModel({model_name(self.model)}, {self.sites['sae']!r})"


def _keep(
    found: dict[str, torch.Tensor], name: str, latents: torch.Tensor, hook: object = None
) -> None:
    del hook
    found[name] = latents.detach()


def _check_options(options: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    """Refuse options that hooks on latents do not know."""
    for name, value in only.items():
        if options.get(name, value) is not value:
            raise ModulesError(
                f"With latents {name} should be {value}; got {options[name]!r}. Leave it out; "
                "Module.attach leaves hooks on the model."
            )

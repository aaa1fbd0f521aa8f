"""Where in its prompt a forward pass begins: behind the tokens that a key-value cache holds.

A hook sees a forward pass's own tokens only. While a model continues a prompt from a key-value
cache, as ``generate`` does, the first of them is not the prompt's first.
"""

import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tl_modules.errors import ModulesError

_CACHES = (
    "past_key_values",  # transformers, TransformerBridge
    "past_kv_cache",  # HookedTransformer
    "past_kv_cache_entry",  # its blocks
    "past_key_value",
    "layer_past",
    "cache_params",  # state space models
)
"""What models call the key-value cache among the arguments of their forward pass."""


@dataclass(frozen=True)
class PromptStart:
    """Where in its prompt a forward pass begins."""

    place: int | None = 0
    """How many of the prompt's tokens come before the pass's first; None where it is unknown."""

    is_open: bool = False
    """Whether the pass has a key-value cache, so that the prompt may go on after it."""


class StartFinder:
    """Says where the forward pass that is under way begins in its prompt.

    While it follows a model it knows the cache that each pass is given. Otherwise it knows only
    from the call stack whether there is a cache, and then refuses: TransformerLens gives a hook
    nothing that leads from it to the model or the cache.
    """

    def __init__(self) -> None:
        """Follow no model yet."""
        self._start: PromptStart | None = None
        self._handles: list[Any] = []

    def __deepcopy__(self, memo: object) -> "StartFinder":
        """Itself: a copied model shares its hooks with the model, as it shares functions."""
        return self

    def follow(self, model: Any) -> None:
        """Read, from now on, the cache that each of a model's passes is given."""
        inner = getattr(model, "original_model", None)  # inside a TransformerBridge
        if isinstance(inner, torch.nn.Module):
            self._read_before([inner])
            return
        # HookedTransformer's generate() calls forward() itself, which runs no hooks of the model;
        # its blocks' hooks do run. What comes before the first block is not known from them.
        blocks, embed = getattr(model, "blocks", None), getattr(model, "embed", None)
        if isinstance(blocks, torch.nn.ModuleList):
            self._read_before(blocks)
            if isinstance(embed, torch.nn.Module):
                self._handles.append(embed.register_forward_pre_hook(self._forget))

    def remove(self) -> None:
        """Follow no model any more; a second time does nothing."""
        while self._handles:
            self._handles.pop().remove()
        self._forget()

    def start(self) -> PromptStart:
        """Where the pass under way begins.

        Raises:
            ModulesError: If it has a cache whose length is not known.
        """
        found = self._start
        if found is None:
            found = PromptStart(None, True) if _is_given_a_cache() else PromptStart()
        if found.place is None:
            raise ModulesError(
                "positions as numbers, slices or masks, attention_mask, and the methods "
                "'position_mean', 'resample' and 'patch' need each token's place in its prompt; in "
                "a run with a key-value cache, fwd_hooks alone do not know it. Use "
                "module.ablated(model, ...) or attach, which read the cache's length; or "
                "positions=None or 'last'; or run without a cache (use_past_kv_cache=False)."
            )
        return found

    def _read_before(self, parts: Iterable[torch.nn.Module]) -> None:
        for part in parts:
            self._handles.append(part.register_forward_pre_hook(self._read, with_kwargs=True))

    def _read(self, part: torch.nn.Module, args: tuple[Any, ...], options: Any) -> None:
        names = inspect.signature(part.forward).parameters
        self._start = _start_of({**dict(zip(names, args, strict=False)), **options})

    def _forget(self, *_: object) -> None:
        self._start = None


def _start_of(arguments: Mapping[str, Any]) -> PromptStart:
    """Where a pass with these arguments begins."""
    given = [arguments[name] for name in _CACHES if arguments.get(name) is not None]
    if not given:
        return PromptStart(0, arguments.get("use_cache") is True)
    place = arguments.get("cache_position")
    if place is not None:
        return PromptStart(int(place.flatten()[0]), True)
    length = _length(given[0])
    return PromptStart(_first_number(arguments) if length is None else length, True)


def _length(cache: Any) -> int | None:
    """How many tokens a key-value cache holds, if it says so."""
    if hasattr(cache, "get_seq_length"):
        try:
            return int(cache.get_seq_length())
        except (ValueError, NotImplementedError):  # of recurrent layers alone
            return None
    if hasattr(cache, "past_keys"):
        return cache.past_keys.shape[1]
    try:
        return cache[0][0].shape[-2]  # a pair of keys and values a layer
    except (TypeError, IndexError, KeyError, AttributeError):
        return None


def _first_number(arguments: Mapping[str, Any]) -> int | None:
    """The number that the model gives the pass's first token, where no padding is left out."""
    numbers, mask = arguments.get("position_ids"), arguments.get("attention_mask")
    if numbers is None or (mask is not None and not bool((mask == 1).all())):
        return None
    firsts = numbers[..., 0].unique()
    return int(firsts[0]) if len(firsts) == 1 else None


def _is_given_a_cache() -> bool:
    """Whether the model's forward pass that is under way was given a key-value cache.

    The outermost ``forward`` on the call stack decides: inner ones may make a cache of their own.
    """
    found, frame = False, sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward":
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            caches = [name for name in names if name in _CACHES]
            if caches:
                found = any(frame.f_locals.get(name) is not None for name in caches)
        frame = frame.f_back
    return found

"""Find the position in the prompt at which a forward pass starts.

A hook sees only the tokens of its forward pass. If a model continues a prompt from a key-value
cache, as ``generate`` does, the first of these tokens is not the first token of the prompt.
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
"""The names of the key-value cache among the arguments of models' forward passes."""


@dataclass(frozen=True)
class PromptStart:
    """The position in the prompt at which a forward pass starts."""

    place: int | None = 0
    """The number of the prompt's tokens before the pass's first token; None if unknown."""

    is_open: bool = False
    """Whether the pass has a key-value cache, so that the prompt may continue after it."""


class StartFinder:
    """Finds the position in the prompt at which the current forward pass starts.

    A finder that follows a model reads the cache that each pass gets. Without a model, the call
    stack tells only whether there is a cache, and ``start`` raises if there is one: TransformerLens
    gives a hook no reference to the model or the cache.
    """

    def __init__(self) -> None:
        """Follow no model yet."""
        self._start: PromptStart | None = None
        self._handles: list[Any] = []

    def __deepcopy__(self, memo: object) -> "StartFinder":
        """Return the finder itself: a copied model shares its hooks, as it shares functions."""
        return self

    def follow(self, model: Any) -> None:
        """Read the cache of each forward pass of a model from now on."""
        inner = getattr(model, "original_model", None)  # inside a TransformerBridge
        if isinstance(inner, torch.nn.Module):
            self._read_before([inner])
            return
        # HookedTransformer.generate() calls forward() directly, which skips the model's own hooks
        # but not its blocks' hooks. Hook points before the first block therefore know no start.
        blocks, embed = getattr(model, "blocks", None), getattr(model, "embed", None)
        if isinstance(blocks, torch.nn.ModuleList):
            self._read_before(blocks)
            if isinstance(embed, torch.nn.Module):
                self._handles.append(embed.register_forward_pre_hook(self._forget))

    def remove(self) -> None:
        """Stop following a model; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()
        self._forget()

    def start(self) -> PromptStart:
        """Return the start of the current forward pass.

        Raises:
            ModulesError: If the pass has a cache of unknown length.
        """
        start = self._start
        if start is None:
            start = PromptStart(None, True) if _is_given_a_cache() else PromptStart()
        if start.place is None:
            raise ModulesError(
                "positions as 'content', numbers, slices or masks, attention_mask, and the methods "
                "'position_mean', 'resample' and 'patch' need each token's position in its prompt; "
                "in a run with a key-value cache, fwd_hooks alone do not know it. Use "
                "module.ablated(model, ...) or attach, which read the cache's length; or "
                "positions=None or 'last'; or run without a cache (use_past_kv_cache=False)."
            )
        return start

    def _read_before(self, parts: Iterable[torch.nn.Module]) -> None:
        for part in parts:
            self._handles.append(part.register_forward_pre_hook(self._read, with_kwargs=True))

    def _read(self, part: torch.nn.Module, args: tuple[Any, ...], options: Any) -> None:
        names = inspect.signature(part.forward).parameters
        self._start = _start_of({**dict(zip(names, args, strict=False)), **options})

    def _forget(self, *_: object) -> None:
        self._start = None


class FromTheStart(StartFinder):
    """Says that every pass starts at its prompt's first token, without a look at the model."""

    def start(self) -> PromptStart:
        """Return the start of the prompt."""
        return PromptStart()


def _start_of(arguments: Mapping[str, Any]) -> PromptStart:
    """Return the start of a pass with these arguments."""
    given = [arguments[name] for name in _CACHES if arguments.get(name) is not None]
    if not given:
        return PromptStart(0, arguments.get("use_cache") is True)
    place = arguments.get("cache_position")
    if place is not None:
        return PromptStart(int(place.flatten()[0]), True)
    length = _length(given[0])
    return PromptStart(_first_number(arguments) if length is None else length, True)


def _length(cache: Any) -> int | None:
    """Return the number of tokens in a key-value cache; None if unknown."""
    if hasattr(cache, "get_seq_length"):
        try:
            return int(cache.get_seq_length())
        except (ValueError, NotImplementedError):  # a cache of recurrent layers only
            return None
    if hasattr(cache, "past_keys"):
        return cache.past_keys.shape[1]
    try:
        return cache[0][0].shape[-2]  # one pair of keys and values per layer
    except (TypeError, IndexError, KeyError, AttributeError):
        return None


def _first_number(arguments: Mapping[str, Any]) -> int | None:
    """Return the position id of the pass's first token; None if padding may have shifted it."""
    numbers, mask = arguments.get("position_ids"), arguments.get("attention_mask")
    if numbers is None or (mask is not None and not bool((mask == 1).all())):
        return None
    firsts = numbers[..., 0].unique()
    return int(firsts[0]) if len(firsts) == 1 else None


def _is_given_a_cache() -> bool:
    """Whether the model's current forward pass got a key-value cache.

    The outermost ``forward`` on the call stack decides, because inner ones may make a cache.
    """
    has_cache, frame = False, sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward":
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            caches = [name for name in names if name in _CACHES]
            if caches:
                has_cache = any(frame.f_locals.get(name) is not None for name in caches)
        frame = frame.f_back
    return has_cache

"""The processes that share one run: torch.distributed's ranks, or this process alone."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Shaped

from tl_modules.errors import ModulesError

PATIENCE = timedelta(days=7)
"""How long a rank waits for others, which may have hours of work left. Leaving is noticed."""

_TYPES = tuple(map(np.dtype, ("uint8", "int64", "float16", "float32", "float64")))
_AXES = 2

_Array = Shaped[np.ndarray, "..."]


@dataclass(frozen=True, eq=False)
class Ranks:
    """One process's place among those of a run, which all make the same calls in the same order.

    Only JSON and plain arrays travel between them, over gloo on the CPU, whatever backend the
    processes themselves use.
    """

    rank: int = 0
    """This process's number."""

    world: int = 1
    """How many processes there are."""

    _group: Any = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def on_machine(self) -> int:
        """How many of them share this machine, as torchrun says."""
        return 1 if self.world == 1 else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def told(self, act: Callable[[], Any], unless: Callable[[], bool] = lambda: False) -> Any:
        """What rank 0 found out, on every rank.

        Args:
            act: What rank 0 does; it returns something JSON-ready.
            unless: Whether the others are not there to be told of a refusal: rank 0 just leaves.

        Raises:
            ModulesError: On every rank, if ``act`` raises one, or if a rank is gone.
        """
        if self.world == 1:
            return act()
        message: dict[str, Any] = {}
        if self.is_first:
            try:
                message = {"found": act()}
            except ModulesError as error:
                if unless():
                    raise
                message = {"refused": str(error)}
        message = _from_json(self.spread(_to_json(message)))
        if "refused" in message:
            raise ModulesError(message["refused"])
        return message["found"]

    def check_same(self, described: Mapping[str, str]) -> None:
        """Refuse, on every rank, what is not the same on all.

        Args:
            described: Checksums or short texts, by what a refusal calls them.

        Raises:
            ModulesError: If one differs from rank 0's, or if a rank is gone.
        """
        expected = self.told(lambda: dict(described))
        differ = [name for name, value in described.items() if expected.get(name) != value]
        gathered = self.gather(_to_json(differ))
        for rank, names in enumerate(self.told(lambda: [_from_json(one) for one in gathered])):
            if names:
                raise ModulesError(
                    f"Every rank should make the same call; {', '.join(names)} differ between "
                    f"rank {rank} and rank 0. Pass the same everywhere."
                )

    def wait(self) -> None:
        """Until every rank is here.

        Raises:
            ModulesError: If one is gone.
        """
        if self.world > 1:
            with all_there():
                dist.barrier(self._group)

    def spread(self, array: _Array | None = None) -> np.ndarray:
        """Rank 0's array, on every rank.

        Raises:
            ModulesError: If a rank is gone.
        """
        if self.world == 1:
            assert array is not None  # rank 0 always gives one
            return array
        with all_there():
            header = _header(array if self.is_first else None)
            dist.broadcast(header, 0, group=self._group)
            array = _like(header) if array is None or not self.is_first else _plain(array)
            if array.size:
                dist.broadcast(_as_bytes(array), 0, group=self._group)
        return array

    def gather(self, array: _Array) -> list[np.ndarray]:
        """Every rank's array, in the ranks' order, on rank 0; nothing on the others.

        Raises:
            ModulesError: If a rank is gone.
        """
        if self.world == 1:
            return [array]
        with all_there():
            if self.is_first:
                return [array, *(self._receive(rank) for rank in range(1, self.world))]
            self._send(array, 0)
        return []

    def scatter(self, arrays: list[_Array]) -> np.ndarray:
        """Each rank's own one of rank 0's arrays; the others' lists are not looked at.

        Raises:
            ModulesError: If a rank is gone.
        """
        if self.world == 1:
            return arrays[0]
        with all_there():
            if not self.is_first:
                return self._receive(0)
            for rank in range(1, self.world):
                self._send(arrays[rank], rank)
        return arrays[0]

    def _send(self, array: _Array, rank: int) -> None:
        array = _plain(array)
        dist.send(_header(array), rank, group=self._group)
        if array.size:
            dist.send(_as_bytes(array), rank, group=self._group)

    def _receive(self, rank: int) -> np.ndarray:
        header = _header(None)
        dist.recv(header, rank, group=self._group)
        array = _like(header)
        if array.size:
            dist.recv(_as_bytes(array), rank, group=self._group)
        return array


ALONE = Ranks()
"""A process of its own."""


@contextmanager
def together(distributed: bool) -> Iterator[Ranks]:
    """The ranks of a run, or this process alone.

    Args:
        distributed: Whether all processes of torch.distributed's default group take part.

    Raises:
        ModulesError: If there is no such group.
    """
    if not distributed:
        yield ALONE
        return
    if not (dist.is_available() and dist.is_initialized()):
        raise ModulesError(
            "distributed=True needs the process group of torch.distributed, and none is "
            "initialised. Start the script with torchrun and call "
            "torch.distributed.init_process_group() first, or leave it out."
        )
    with all_there():
        group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), group)
    try:
        yield ranks
    finally:
        dist.destroy_process_group(group)
        # Its connections close, which the others notice, once nothing refers to it any more.
        object.__setattr__(ranks, "_group", None)
        del group


@contextmanager
def all_there() -> Iterator[None]:
    """What torch.distributed raises when a rank is gone, as a refusal.

    Raises:
        ModulesError: In its place.
    """
    try:
        yield
    except ModulesError:
        raise
    except RuntimeError as error:
        raise ModulesError(
            "Another rank of this run has stopped, or cannot be reached. See what it said, mend "
            "that, and run all of them again: what was written stays."
        ) from error


def _to_json(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def _from_json(array: np.ndarray) -> Any:
    return json.loads(array.tobytes())


def _header(array: _Array | None) -> torch.Tensor:
    """An array's type and shape as a tensor of fixed size; zeros to receive one into."""
    if array is None:
        return torch.zeros(2 + _AXES, dtype=torch.int64)
    numbers = [_TYPES.index(array.dtype), array.ndim, *array.shape]
    return torch.tensor(numbers + [0] * (2 + _AXES - len(numbers)))


def _like(header: torch.Tensor) -> np.ndarray:
    """An array to receive what the header describes."""
    kind, n_axes, *shape = header.tolist()
    return np.empty(shape[:n_axes], _TYPES[kind])


def _plain(array: _Array) -> np.ndarray:
    """The array in one piece that may be written to, as torch asks; copied only if it is not."""
    return np.require(array, requirements=["C", "W"])


def _as_bytes(array: np.ndarray) -> torch.Tensor:
    """The same memory as bytes."""
    return torch.from_numpy(array.reshape(-1).view(np.uint8))

"""The processes that share one run: those of torch.distributed, or this process alone."""

import json
import os
import re
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
"""How long a process waits for others, which may have hours of work left.

A process that ends is noticed at once, so the wait does not need to be short.
"""

_TYPES = tuple(map(np.dtype, ("uint8", "int64", "float16", "float32", "float64")))
_AXES = 2

_Array = Shaped[np.ndarray, "..."]


@dataclass(frozen=True, eq=False)
class Processes:
    """This process's rank among the processes of a run, and what they exchange.

    All processes make the same calls in the same order. They exchange only JSON and plain arrays,
    over gloo on the CPU, whatever backend the model uses.
    """

    rank: int = 0
    """This process's number, from 0, as torch.distributed counts."""

    world_size: int = 1
    """How many processes there are."""

    _group: Any = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this is the process of rank 0."""
        return self.rank == 0

    @property
    def on_machine(self) -> int:
        """How many of the processes run on this machine, as torchrun reports it."""
        return 1 if self.world_size == 1 else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def from_first(
        self, act: Callable[[], Any], raise_alone: Callable[[], bool] = lambda: False
    ) -> Any:
        """Call a function on the first process, and return its result on every process.

        Args:
            act: The function; it returns a JSON-ready value.
            raise_alone: Whether the other processes are not waiting for the result, so that the
                first process raises the error without sending it.

        Raises:
            ModulesError: On every process, if ``act`` raises one, or if a process has ended.
        """
        if self.world_size == 1:
            return act()
        message: dict[str, Any] = {}
        if self.is_first:
            try:
                message = {"result": act()}
            except ModulesError as error:
                if raise_alone():
                    raise
                # The others wait in broadcast(): without this message they would wait for days.
                message = {"error": str(error)}
        message = _from_json(self.broadcast(_to_json(message)))
        if "error" in message:
            raise ModulesError(message["error"])
        return message["result"]

    def check_same(self, described: Mapping[str, str]) -> None:
        """Check that every process was called with the same arguments.

        Args:
            described: Checksums or short texts, by their names in error messages.

        Raises:
            ModulesError: On every process, if a text differs from the first process's, or if a
                process has ended.
        """
        expected = self.from_first(lambda: dict(described))
        # Every process reports its differences to the first one, so that all of them raise; a
        # process that raised alone would leave the others waiting.
        differ = [name for name, value in described.items() if expected.get(name) != value]
        gathered = self.gather(_to_json(differ))
        differences = self.from_first(lambda: [_from_json(names) for names in gathered])
        for rank, names in enumerate(differences):
            if names:
                raise ModulesError(
                    f"Every process should make the same call; {', '.join(names)} differ between "
                    f"rank {rank} and rank 0. Pass the same arguments everywhere."
                )

    def wait(self) -> None:
        """Wait until every process has called this.

        Raises:
            ModulesError: As ``wait_for_all`` raises.
        """
        if self.world_size > 1:
            wait_for_all(self._group)

    def broadcast(self, array: _Array | None = None) -> np.ndarray:
        """Return the first process's array on every process; the others pass None.

        Raises:
            ModulesError: If a process has ended.
        """
        if self.world_size == 1:
            assert array is not None  # the first process always passes an array
            return array
        with lost_processes_raise():
            # The header comes first: a receiver has to make an array of the right size.
            header = _header(array if self.is_first else None)
            dist.broadcast(header, 0, group=self._group)
            array = _like(header) if array is None or not self.is_first else _plain(array)
            if array.size:
                dist.broadcast(_as_bytes(array), 0, group=self._group)
        return array

    def gather(self, array: _Array) -> list[np.ndarray]:
        """Return every process's array, by rank, on the first process; an empty list elsewhere.

        Raises:
            ModulesError: If a process has ended.
        """
        if self.world_size == 1:
            return [array]
        if self.is_first:
            return [array, *(self._receive(rank) for rank in range(1, self.world_size))]
        with lost_processes_raise():
            self._send(array, 0)
        return []

    def scatter(self, arrays: list[_Array]) -> np.ndarray:
        """Return to each process its array of the first process's list; other lists are ignored.

        Raises:
            ModulesError: If a process has ended.
        """
        if self.world_size == 1:
            return arrays[0]
        if not self.is_first:
            return self._receive(0)
        with lost_processes_raise():
            for rank in range(1, self.world_size):
                self._send(arrays[rank], rank)
        return arrays[0]

    def _send(self, array: _Array, rank: int) -> None:
        array = _plain(array)
        dist.send(_header(array), rank, group=self._group)
        if array.size:
            dist.send(_as_bytes(array), rank, group=self._group)

    def _receive(self, rank: int) -> np.ndarray:
        with lost_processes_raise(rank):
            header = _header(None)
            dist.recv(header, rank, group=self._group)
            array = _like(header)
            if array.size:
                dist.recv(_as_bytes(array), rank, group=self._group)
        return array


ALONE = Processes()
"""A run of one process."""


@contextmanager
def process_group(distributed: bool) -> Iterator[Processes]:
    """The processes of a run, for the time of a ``with``.

    Args:
        distributed: Whether all processes of torch.distributed's default group take part; otherwise
            this process runs alone.

    Raises:
        ModulesError: If there is no default group.
    """
    if not distributed:
        yield ALONE
        return
    if not (dist.is_available() and dist.is_initialized()):
        raise ModulesError(
            "distributed=True needs the process group of torch.distributed, and none is "
            "initialised. Start the script with torchrun and call "
            "torch.distributed.init_process_group() first, or leave distributed=True out."
        )
    with lost_processes_raise():
        group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    processes = Processes(dist.get_rank(), dist.get_world_size(), group)
    try:
        yield processes
    finally:
        dist.destroy_process_group(group)
        # The group's connections close only when nothing refers to it. Until then the other
        # processes would not notice that this one has left.
        object.__setattr__(processes, "_group", None)
        del group


def wait_for_all(group: Any = None) -> None:
    """Wait until every process of a gloo group, by default all processes, has called this.

    Raises:
        ModulesError: If a process has ended or does not arrive within ``PATIENCE``. On the first
            process the message names its rank, unless gloo had noticed the end before.
    """
    with lost_processes_raise():
        # Unlike a plain barrier, it tells the first process which rank is missing. Without a
        # timeout of its own it would wait for half an hour, whatever the group's timeout is.
        dist.monitored_barrier(group, PATIENCE)


@contextmanager
def lost_processes_raise(rank: int | None = None) -> Iterator[None]:
    """Turn the errors that torch.distributed raises for a lost process into ``ModulesError``.

    Args:
        rank: The rank that is waited for, if it is one alone.

    Raises:
        ModulesError: In place of a ``RuntimeError``. It names ``rank``, or the rank that a
            monitored barrier missed.
    """
    try:
        yield
    except ModulesError:
        raise
    except RuntimeError as error:
        missed = re.search(r"Rank (\d+) failed to pass monitoredBarrier", str(error))
        lost = rank if missed is None else missed[1]
        who = "Another process" if lost is None else f"Rank {lost}"
        raise ModulesError(
            f"{who} of this run has stopped, or cannot be reached. Read its error message, fix the "
            "cause, and start all processes again: finished work is kept."
        ) from error


def _to_json(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def _from_json(array: np.ndarray) -> Any:
    return json.loads(array.tobytes())


def _header(array: _Array | None) -> torch.Tensor:
    """An array's type and shape as a tensor of fixed size; zeros, to receive one, for None."""
    if array is None:
        return torch.zeros(2 + _AXES, dtype=torch.int64)
    numbers = [_TYPES.index(array.dtype), array.ndim, *array.shape]
    return torch.tensor(numbers + [0] * (2 + _AXES - len(numbers)))


def _like(header: torch.Tensor) -> np.ndarray:
    """An empty array of the type and shape that a header describes."""
    kind, n_axes, *shape = header.tolist()
    return np.empty(shape[:n_axes], _TYPES[kind])


def _plain(array: _Array) -> np.ndarray:
    """The array, contiguous and writable, as torch requires; copied only if it is not."""
    return np.require(array, requirements=["C", "W"])


def _as_bytes(array: np.ndarray) -> torch.Tensor:
    """A tensor of bytes over the array's memory."""
    return torch.from_numpy(array.reshape(-1).view(np.uint8))

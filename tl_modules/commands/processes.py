"""Run a command in several processes: ``torchrun -m tl_modules COMMAND``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
import torch.distributed as dist

from tl_modules.errors import ModulesError
from tl_modules.runtime.processes import PATIENCE, wait_for_all


def started_together() -> bool:
    """Whether torchrun or accelerate started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ


@contextmanager
def joined() -> Iterator[bool]:
    """Join the other processes, if there are any; only the first process prints.

    Yields:
        Whether there are other processes.
    """
    if not started_together():
        yield False
        return
    # gloo, because processes exchange short messages on the CPU only.
    dist.init_process_group("gloo", timeout=PATIENCE)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        if is_first():
            yield True
        else:
            # Redirected, because prints of libraries would appear once per process.
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
                yield True
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process prints and writes the common results."""
    return not dist.is_initialized() or dist.get_rank() == 0


@contextmanager
def one_per_machine_first() -> Iterator[None]:
    """Let one process per machine fill the caches before the others read them."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    several = dist.is_initialized()
    if several and not first:
        wait_for_all()
    yield
    if several and first:
        wait_for_all()


def check_alone() -> None:
    """Raise if several processes run a command that only one process can run.

    Raises:
        ModulesError: If there are several processes.
    """
    if started_together():
        raise ModulesError(
            "Only 'collect --store' and 'discover' on a store can run in several processes; "
            f"{os.environ['WORLD_SIZE']} were started. Run this command without torchrun."
        )

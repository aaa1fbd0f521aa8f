"""The folder of a store: which files a collection writes there, checking, locking, deleting it."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tl_modules.activations.manifest import MANIFEST
from tl_modules.errors import ModulesError

PLAN = "plan.safetensors"
"""What the collection that began the folder collects; it stays in the finished store."""

FINISHED_CHUNK = "done-{:05d}.safetensors"
"""The record that one chunk is complete."""

LOCK = ".lock"
"""The first process holds this lock; other processes hold ``.lock-RANK``."""

_NAMES = (
    rf"{re.escape(PLAN)}|{re.escape(MANIFEST)}|done-\d{{5,}}\.safetensors|chunk-\d{{5,}}\.npy"
    r"|piece-\d{5,}-\d{7,}\.safetensors"
)
_BEFORE_PLAN = re.compile(rf"\.lock(?:-\d+)?|\.(?:{_NAMES})\.[0-9a-f]{{8}}\.part")
"""A lock or a partly written file: all that a folder can hold before its plan is written."""
_COLLECTED = re.compile(rf"{_NAMES}|{_BEFORE_PLAN.pattern}")
"""Every file that a collection writes into its folder."""

VISIBLE_AFTER_S = 60.0
"""How long to wait for a file from another machine: NFS caches a folder's listing."""


def check_folder(path: Path) -> None:
    """Refuse a folder that holds files but was not begun by a collection.

    Raises:
        ModulesError: If the path is such a folder, is a file, or cannot be read.
    """
    if path.exists() and not path.is_dir():
        raise ModulesError(
            f"A store should be a folder; {str(path)!r} is a file. Name another path, or move the "
            "file away."
        )
    try:
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    except OSError as error:
        raise ModulesError(f"Cannot read the folder {str(path)!r}: {error}.") from error
    others = sorted(name for name in names if _BEFORE_PLAN.fullmatch(name) is None)
    if PLAN not in names and others:
        raise ModulesError(
            f"{str(path)!r} should be a new or empty folder, or one that an earlier collection "
            f"began; it holds other files, such as {others[0]!r}. Name another folder, or move "
            "the files away."
        )


def delete_store(folder: Path) -> None:
    """Delete a finished or unfinished store; delete its folder too if nothing else is in it.

    Raises:
        ModulesError: If no collection began the folder, or a file cannot be deleted.
    """
    check_folder(folder)
    try:
        collected = [entry for entry in folder.iterdir() if is_collected(entry)]
        # The plan marks the folder as a collection's: a deletion that stops halfway can be repeated
        # only while the plan is there, so it goes last.
        for path in sorted(collected, key=lambda path: path.name == PLAN):
            if path.is_symlink() or path.is_file():
                path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise ModulesError(f"Cannot delete the folder {str(folder)!r}: {error}.") from error


def is_collected(path: Path) -> bool:
    """Whether a file's name is one that a collection writes."""
    return _COLLECTED.fullmatch(path.name) is not None


def delete_partly_written(folder: Path) -> None:
    """Delete temporary files, which a run leaves behind when it is killed while it writes."""
    for path in folder.glob(".*.part"):
        if _BEFORE_PLAN.fullmatch(path.name):
            path.unlink(missing_ok=True)


def acquire_lock(folder: Path, name: str = LOCK) -> FileLock:
    """Acquire one of the folder's locks.

    Raises:
        ModulesError: If another process holds the lock.
        OSError: If the lock file cannot be written.
    """
    lock = FileLock(folder / name, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ModulesError(
            f"Another process is writing to {str(folder)!r}. Wait until it ends, name another "
            "folder, or, in a script of several processes, pass distributed=True."
        ) from error
    return lock


def check_no_other_locks(folder: Path) -> None:
    """Check that no process of an earlier run is still writing.

    A process may outlive the first process of its run, whose lock is free by then.

    Raises:
        ModulesError: If a process holds its lock.
    """
    for path in folder.glob(f"{LOCK}-*"):
        acquire_lock(folder, path.name).release()


def wait_for_file(folder: Path, name: str, rank: int) -> None:
    """Wait until a file that another process wrote is visible here.

    Args:
        folder: The store's folder, on a disk that all machines share.
        name: The file's name.
        rank: This process's rank, for the message.

    Raises:
        ModulesError: If the file is still not visible after ``VISIBLE_AFTER_S`` seconds.
    """
    stop = time.monotonic() + VISIBLE_AFTER_S
    while not (folder / name).is_file():
        if time.monotonic() > stop:
            raise ModulesError(
                f"Every process should see the same folder; rank {rank} does not see {name!r}, "
                f"which another process wrote, in {str(folder)!r}. Name a folder that all machines "
                "share."
            )
        time.sleep(0.05)


@contextlib.contextmanager
def write_errors_explained(folder: Path) -> Iterator[None]:
    """Turn the system's errors into ``ModulesError``.

    Raises:
        ModulesError: In place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise ModulesError(f"Cannot write to the folder {str(folder)!r}: {error}.") from error


def make_empty_folder(path: Path) -> None:
    """Make a folder for a new store.

    Raises:
        ModulesError: If the folder holds files, or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        holds_files = any(path.iterdir())
    except OSError as error:
        raise ModulesError(f"Cannot make the folder {str(path)!r}: {error}.") from error
    if holds_files:
        raise ModulesError(
            f"{str(path)!r} should be a new or empty folder; it holds files. Name another folder, "
            "or delete this one first."
        )

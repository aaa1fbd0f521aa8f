"""Examples of hostile files by hypothesis; ``python -m tests.fuzz.examples 10000`` runs so many."""

import sys
import tempfile
import warnings
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tl_modules as tlm
from tests.fuzz.high_water import HighWater
from tests.fuzz.mutate import Choices
from tests.fuzz.targets import TARGETS, Target

N_BYTES = 48
"""What chooses a mutation."""


def on_examples(n_examples):
    """Call a function, when it is called, with so many texts of bytes, the same ones each time."""
    options = settings(
        max_examples=n_examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return lambda function: options(given(st.binary(min_size=N_BYTES, max_size=N_BYTES))(function))


def try_one(target: Target, folder: Path, prepared: object, data: bytes) -> bool:
    """Whether a mutated file loads; refused with anything but a ModulesError, it is a bug."""
    choose = Choices(data)
    target.write(choose, folder, prepared)
    try:
        target.use(folder)
    except tlm.ModulesError:
        return False
    except BaseException as error:
        error.add_note(f"{target.name}: {'; '.join(choose.said)}")
        raise
    return True


def try_many(target: Target, folder: Path, n_examples: int) -> int:
    """As many examples of a kind of file, the same ones each time; how many of them load."""
    folder.mkdir()
    prepared = target.prepare(folder)
    target.use(folder)
    loaded = []

    @on_examples(n_examples)
    def examples(data: bytes) -> None:
        loaded.append(try_one(target, folder, prepared, data))

    examples()
    return sum(loaded)


def main() -> None:
    n_examples = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as root:
        for target in TARGETS:  # what is compiled and imported once is no file's doing
            try_many(target, Path(root) / f"{target.name} first", 5)
        warnings.simplefilter("error")
        with HighWater() as high:
            for target in TARGETS:
                own = n_examples * target.share // 100
                loaded = try_many(target, Path(root) / target.name, own)
                print(f"{target.name}: {own} examples, {loaded} load")
    print(f"memory rose by {high.rise / 1024**2:.0f} MB at most")


if __name__ == "__main__":
    main()

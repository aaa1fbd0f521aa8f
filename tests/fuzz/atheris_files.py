"""Files mutated under the guidance of coverage: ``python tests/fuzz/atheris_files.py -runs=10000``.

Needs the package atheris, which the tests do not. Whatever is raised but a ModulesError ends the
run, with what was done to the file; the file that chose it is written to the working folder.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
# numba compiles no instrumented code.
COMPILED = ["tl_modules.activations._half", "tl_modules.discovery"]
with atheris.instrument_imports(include=["tl_modules"], exclude=COMPILED):
    import tl_modules  # noqa: F401 - imported here to be instrumented
    from tests.fuzz.examples import try_one
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz every kind of file; the first byte says which."""
    with tempfile.TemporaryDirectory() as root:
        ready = []
        for target in TARGETS:
            folder = Path(root) / target.name
            folder.mkdir()
            ready.append((target, folder, target.prepare(folder)))

        def one(data: bytes) -> None:
            target, folder, prepared = ready[data[0] % len(ready) if data else 0]
            try_one(target, folder, prepared, data[1:])

        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

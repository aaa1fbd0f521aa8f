"""What a set-up installs, and the constraints file that pins it.

``python -m tests.pins`` pins what the running environment has, in the file that it was made with.
"""

import re
import sys
import tomllib
from importlib.metadata import distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LEGACY = version("transformer-lens").startswith("3.")
FILE = ROOT / ("constraints-legacy.txt" if LEGACY else "constraints.txt")
# torch pins what its CUDA builds bring, and the CPU build, which CI runs, brings none of it.
OF_CUDA = ("cuda-", "nvidia-", "triton")


def asked_for():
    """The package's own requirements, and those of the extras that the Makefile sets up."""
    variable = "LEGACY_EXTRAS" if LEGACY else "EXTRAS"
    makefile = (ROOT / "Makefile").read_text()
    (extras,) = re.findall(rf"^{variable} := (.+)$", makefile, flags=re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["optional-dependencies"][extra] for extra in extras.split(",")]
    return sum(lists, project["dependencies"])


def needed(requirements):
    """Installed versions, by name, of what these need in turn; a requirement not met raises."""
    versions, seen, todo = {}, set(), [*map(Requirement, requirements)]
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if str(wanted) in seen or name.startswith(OF_CUDA):
            continue
        seen.add(str(wanted))
        found = distribution(name)
        if not wanted.specifier.contains(found.version, prereleases=True):
            raise ValueError(f"{name} {found.version} is installed, but {wanted} is needed.")
        versions[name] = found.version.partition("+")[0]  # 2.13.0+cpu is a build of 2.13.0
        for more in map(Requirement, found.requires or []):
            extras = {"", *wanted.extras}
            if more.marker is None or any(more.marker.evaluate({"extra": it}) for it in extras):
                todo.append(more)
    return dict(sorted(versions.items()))


def pinned():
    """The versions in the file, by name."""
    pins = re.findall(r"^([^#\s]+)==(\S+)$", FILE.read_text(), flags=re.MULTILINE)
    return {canonicalize_name(name): pin for name, pin in pins}


def main():
    """Rewrite the file below the comments at its top."""
    comments = [line for line in FILE.read_text().splitlines() if line.startswith("#")]
    pins = [f"{name}=={pin}" for name, pin in needed(asked_for()).items()]
    FILE.write_text("\n".join([*comments, *pins, ""]))
    sys.stdout.write(f"{FILE.name}: {len(pins)} pins\n")


if __name__ == "__main__":
    main()

"""The files of a shared module set, and the folder that holds them."""

from pathlib import Path

from tl_modules.errors import ModulesError
from tl_modules.saving import files

MODULES = "modules.safetensors"
"""What ``ModuleSet.save`` writes."""

CARD = "README.md"
"""The model card."""

EFFECTS = "effects.csv"
"""What ``module_effects`` returned, if it was shared."""


def write_folder(folder: str | Path, contents: dict[str, bytes]) -> None:
    """Write each file atomically; the folder is made if it is not there.

    An effects table of an earlier set is removed: it is of other modules.

    Args:
        folder: Where to.
        contents: The files' bytes by name.

    Raises:
        ModulesError: If the folder cannot be made or written to.
    """
    folder = files.checked_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if EFFECTS not in contents:
            (folder / EFFECTS).unlink(missing_ok=True)
    except OSError as error:
        raise ModulesError(
            f"Cannot write to the folder {str(folder)!r}: {error.strerror or error}. Choose one "
            "that may be written to."
        ) from error
    for name, data in contents.items():
        files.write_bytes(folder / name, data)


def find_in_folder(name: str | Path) -> Path | None:
    """The modules' file of a local folder; None if there is no such folder.

    Raises:
        ModulesError: If the folder holds no modules, or is a file.
    """
    if not isinstance(name, str | Path) or not str(name):
        raise ModulesError(
            f"Modules are loaded from a folder or a repository such as 'user/name'; got {name!r}."
        )
    path = files.checked_path(name) if str(name).startswith("~") else Path(name)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError:  # too long for a path, or in a folder that may not be read
        return None
    if is_file:
        raise ModulesError(
            f"from_pretrained takes a folder or a repository; {str(name)!r} is a file. Use "
            "ModuleSet.load(path)."
        )
    if not is_folder:
        return None
    if not (path / MODULES).is_file():
        raise ModulesError(
            f"The folder {str(name)!r} should hold {MODULES!r}; it does not. Write one with "
            "modules.save_pretrained(folder), or use ModuleSet.load(path) for a file of another "
            "name. If you meant a repository of that name, load from another working folder."
        )
    return path / MODULES

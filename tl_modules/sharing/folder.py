"""Write and find the files of a shared module set in a folder."""

from pathlib import Path

from tl_modules.errors import ModulesError
from tl_modules.saving import files

MODULES = "modules.safetensors"
"""The file that ``ModuleSet.save`` writes."""

CARD = "README.md"
"""The model card."""

EFFECTS = "effects.csv"
"""The table of ``module_effects``, if it is shared."""


def write_folder(folder: str | Path, contents: dict[str, bytes]) -> None:
    """Write files into a folder, each atomically; make the folder if it does not exist.

    An effects table of an earlier set is removed, because it belongs to other modules.

    Args:
        folder: The folder.
        contents: The bytes of each file by its name.

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
            f"Cannot write to the folder {str(folder)!r}: {error.strerror or error}. Choose a "
            "folder that you may write to."
        ) from error
    for name, data in contents.items():
        files.write_bytes(folder / name, data)


def find_in_folder(name: str | Path) -> Path | None:
    """Find the modules' file in a local folder; None if there is no such folder.

    Raises:
        ModulesError: If the folder holds no modules, or is a file.
    """
    if not isinstance(name, str | Path) or not str(name):
        raise ModulesError(
            f"name_or_folder should be a folder or a repository such as 'user/name'; got {name!r}."
        )
    path = files.checked_path(name) if str(name).startswith("~") else Path(name)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError:  # the name is too long for a path, or its folder is not readable
        return None
    if is_file:
        raise ModulesError(
            f"name_or_folder should be a folder or a repository; {str(name)!r} is a file. Use "
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

"""A module set as a folder, or as a repository on the Hugging Face hub."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.saving import files
from tl_modules.sharing.card import model_card
from tl_modules.sharing.effects import check_controls
from tl_modules.sharing.folder import CARD, EFFECTS, MODULES, find_in_folder, write_folder
from tl_modules.sharing.hub import fetch, push
from tl_modules.sharing.without_prompts import without_prompts

# Not typing.Self, which beartype takes only where it decorates whole classes.
_Own = TypeVar("_Own", bound="Shareable")

FILE_KIND = "ModuleSet"
"""What a module set's file says it holds."""


class Shareable(ABC):
    """What a module set can be shared by; ``ModuleSet`` says what it holds."""

    n_modules: int
    topics: Any

    @abstractmethod
    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a file keeps: a JSON-ready header, and arrays by name."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """One row a module."""

    @abstractmethod
    def describe(self) -> pd.DataFrame:
        """What each module is about, one row a module."""

    @classmethod
    @abstractmethod
    def load(cls: type[_Own], path: str | Path) -> _Own:
        """Read one file."""

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        prompts: bool = True,
        effects: pd.DataFrame | None = None,
        licence: str | None = None,
    ) -> None:
        """Write a folder to share: the set, and a model card written from it.

        The folder holds ``modules.safetensors``, ``README.md`` (the card), and ``effects.csv`` if
        effects are given; files of these names are replaced, each atomically.

        **The set holds the text of its prompts**, and so will whoever gets the folder.

        Args:
            folder: Where to; it is made if it is not there.
            prompts: False leaves the prompts out: every text column of the samples but
                ``category``, and the topics' prompts and contexts. The topics' single words stay.
                Nothing causal needs the prompts; ``with_topics`` does.
            effects: What ``module_effects`` returned for these modules; the card shows it beside
                its controls.
            licence: The hub's name of the licence you give it, such as ``"cc-by-4.0"``.

        Raises:
            ModulesError: If the effects have no controls or are of other modules, or the folder
                cannot be written to.
        """
        name = Path(folder).name or "folder"
        write_folder(folder, self._contents(name, None, prompts, effects, licence))

    def push_to_hub(  # noqa: PLR0913 - the options of huggingface_hub's own uploads
        self,
        repo_id: str,
        *,
        prompts: bool = True,
        effects: pd.DataFrame | None = None,
        licence: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Add functional modules",
        create_pr: bool = False,
        endpoint: str | None = None,
    ) -> str:
        """Upload the set and its model card to the Hugging Face hub, in one commit.

        **This gives the text of the prompts to others**, unless ``prompts=False`` or the
        repository is private. What was once committed stays in the repository's history.

        Args:
            repo_id: The repository, ``"user/name"``; it is made if it is not there. Its
                ``README.md`` is replaced, so give modules a repository of their own.
            prompts: False leaves the prompts out, as in ``save_pretrained``.
            effects: What ``module_effects`` returned for these modules, as in ``save_pretrained``.
            licence: The hub's name of the licence you give it, such as ``"cc-by-4.0"``.
            private: Keep others out. None leaves that to the account's default: public for most.
                A repository that is there already and is public is refused with ``private=True``.
            token: A token with the right to write; by default the one that you logged in with.
            revision: The branch, made if there is none; by default the main one.
            commit_message: The commit's summary.
            create_pr: Open a pull request instead of committing to the branch.
            endpoint: The hub's address, if it is not the usual one.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ModulesError: If the name is none, the hub refuses (no token, no right to write) or
                cannot be reached (offline mode, no connection), or as ``save_pretrained`` raises.
        """
        return push(
            self._contents(repo_id, revision, prompts, effects, licence),
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            endpoint=endpoint,
        )

    @classmethod
    def from_pretrained(
        cls: type[_Own],
        name_or_folder: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        endpoint: str | None = None,
    ) -> _Own:
        """Read a set that ``save_pretrained`` or ``push_to_hub`` wrote. Nothing is unpickled.

        Args:
            name_or_folder: A folder, or a repository on the Hugging Face hub, ``"user/name"``. A
                folder of that name is preferred; then the other arguments are not used.
            revision: A branch, tag or commit; by default the main branch.
            token: A token with the right to read it, if it is private; by default the one that
                you logged in with.
            cache_dir: Where downloads are kept; by default huggingface_hub's own place.
            local_files_only: Ask no server: take what was downloaded before.
            endpoint: The hub's address, if it is not the usual one.

        Returns:
            The set.

        Raises:
            ModulesError: If there is no such folder, repository, revision or file in it, the hub
                refuses or cannot be reached, or the file is truncated, altered, or no module set.
        """
        path = find_in_folder(name_or_folder) or fetch(
            str(name_or_folder),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            endpoint=endpoint,
        )
        return cls.load(path)

    def _contents(
        self,
        name: str,
        revision: str | None,
        prompts: bool,
        effects: pd.DataFrame | None,
        licence: str | None,
    ) -> dict[str, bytes]:
        """The files to share, by name."""
        if not isinstance(prompts, bool):  # "False" is true
            raise ModulesError(f"prompts should be True or False; got {prompts!r}.")
        check_controls(effects, self.n_modules)
        header, arrays = self.parts()
        if not prompts:
            header = without_prompts(header)
        table = self.to_frame()
        if self.topics is not None:
            table = table.merge(self.describe()[["module", "label", "words"]])
        card = model_card(
            header, table, name=name, revision=revision, effects=effects, licence=licence
        )
        contents = {CARD: card.encode("utf-8", errors="replace")}
        if effects is not None:
            contents[EFFECTS] = effects.to_csv(index=False).encode("utf-8", errors="replace")
        # Last: who finds new modules in the folder finds their card too.
        return contents | {MODULES: files.encode(FILE_KIND, header, arrays)}

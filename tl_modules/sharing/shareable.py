"""Save and load a module set as a folder or as a repository on the Hugging Face hub."""

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

# Not typing.Self, which beartype supports only if it decorates whole classes.
_Self = TypeVar("_Self", bound="Shareable")

FILE_KIND = "ModuleSet"
"""The kind of content in the header of a module set's file."""


class Shareable(ABC):
    """The methods of ``ModuleSet`` that share it: folders and the Hugging Face hub."""

    n_modules: int
    topics: Any

    @abstractmethod
    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the content of a file: a JSON-ready header, and arrays by name."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per module."""

    @abstractmethod
    def describe(self) -> pd.DataFrame:
        """Return a table of the modules' topics with one row per module."""

    @abstractmethod
    def with_effects(self: _Self, effects: pd.DataFrame) -> _Self:
        """Return the set with the modules that every category needs named so."""

    @classmethod
    @abstractmethod
    def load(cls: type[_Self], path: str | Path) -> _Self:
        """Load a module set from a file."""

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        prompts: bool = True,
        effects: pd.DataFrame | None = None,
        licence: str | None = None,
    ) -> None:
        """Write a folder to share: the module set, and a model card.

        The folder holds ``modules.safetensors``, ``README.md`` (the card) and, with ``effects``,
        ``effects.csv``. Files of these names are replaced, each atomically.

        **The set holds the text of its prompts**; everybody who gets the folder can read them.

        Args:
            folder: The folder, which is made if it does not exist.
            prompts: False leaves the prompts out: all text columns of the samples except
                ``category``, and the topics' prompts and contexts. The topics' single words stay,
                and so do labels that a labeller wrote.
                Causal tests do not need the prompts; ``with_topics`` does.
            effects: The table that ``module_effects`` returned for these modules; the card shows
                effects beside their controls, and the shared set is named by them (see
                ``with_effects``).
            licence: The hub's name of the licence that you choose, such as ``"cc-by-4.0"``.

        Raises:
            ModulesError: If the effects have no controls or belong to other modules, or the folder
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
        """Upload the module set and its model card to the Hugging Face hub, in one commit.

        **Others can read the text of the prompts**, unless ``prompts=False`` or the repository is
        private. A commit stays in the repository's history.

        Args:
            repo_id: The repository, ``"user/name"``, which is created if it does not exist. Its
                ``README.md`` is replaced, so use a separate repository for modules.
            prompts: False leaves the prompts out, as in ``save_pretrained``.
            effects: The table that ``module_effects`` returned for these modules, as in
                ``save_pretrained``.
            licence: The hub's name of the licence that you choose, such as ``"cc-by-4.0"``.
            private: Whether the repository is private. None uses the account's default, which is
                public for most accounts. True raises ``ModulesError`` if the repository exists and
                is public.
            token: A token that may write; by default the token of your login.
            revision: The branch, created if it does not exist; by default the main branch.
            commit_message: The commit's summary.
            create_pr: Open a pull request instead of committing to the branch.
            endpoint: The hub's address, if it is not the default.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ModulesError: If the name is not valid, the hub rejects the request (no token, no
                permission) or cannot be reached (offline mode, no connection), or as
                ``save_pretrained`` raises.
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
        cls: type[_Self],
        name_or_folder: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        endpoint: str | None = None,
    ) -> _Self:
        """Load a module set that ``save_pretrained`` or ``push_to_hub`` wrote, without unpickling.

        Args:
            name_or_folder: A folder, or a repository on the Hugging Face hub, ``"user/name"``. If
                there is a local folder of this name, it is used and the other arguments are
                ignored.
            revision: A branch, tag or commit; by default the main branch.
            token: A token that may read a private repository; by default the token of your login.
            cache_dir: The folder for downloads; by default huggingface_hub's own.
            local_files_only: Use only earlier downloads, without a request to a server.
            endpoint: The hub's address, if it is not the default.

        Returns:
            The module set.

        Raises:
            ModulesError: If there is no such folder, repository, revision or file, the hub rejects
                the request or cannot be reached, or the file is truncated, altered, or holds no
                module set.
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
        """Return the files to share, by name."""
        if not isinstance(prompts, bool):  # the string "False" would count as true, and share them
            raise ModulesError(
                f"prompts should be True or False; got {prompts!r}. False leaves prompts out."
            )
        check_controls(effects, self.n_modules)
        named = self if effects is None else self.with_effects(effects)
        header, arrays = named.parts()
        if not prompts:
            header = without_prompts(header)
        table = named.to_frame()
        if named.topics is not None:
            described = named.describe()
            shown = ("module", "label", "label_auc", "label_p_holm", "words")
            table = table.merge(described[[name for name in shown if name in described]])
        card = model_card(
            header,
            table,
            name=name,
            n_shared=int(np.sum(arrays.get("is_shared", 0))),
            revision=revision,
            effects=effects,
            licence=licence,
        )
        contents = {CARD: card.encode("utf-8", errors="replace")}
        if effects is not None:
            contents[EFFECTS] = effects.to_csv(index=False).encode("utf-8", errors="replace")
        # The modules are written last, so that new modules never have an old card beside them.
        return contents | {MODULES: files.encode(FILE_KIND, header, arrays)}

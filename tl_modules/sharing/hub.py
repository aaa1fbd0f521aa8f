"""Files to and from the Hugging Face hub, by huggingface_hub's own client."""

from pathlib import Path
from typing import TYPE_CHECKING

from tl_modules.errors import ModulesError
from tl_modules.saving.files import checked_path
from tl_modules.sharing.folder import EFFECTS, MODULES
from tl_modules.sharing.refusals import refusals

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push(
    contents: dict[str, bytes],
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    commit_message: str,
    create_pr: bool,
    endpoint: str | None,
) -> str:
    """Put files into a repository in one commit, making the repository if there is none.

    An effects table of an earlier set is removed in the same commit: it is of other modules.

    Args:
        contents: The files' bytes by name; nothing is written on this machine.
        repo_id: The repository, ``"user/name"``.
        private: Whether others are kept out; None leaves it to the account's default.
        token: As huggingface_hub takes it.
        revision: The branch, made if there is none; None for the main one.
        commit_message: The commit's summary.
        create_pr: Propose the commit as a pull request.
        endpoint: The hub's address, if it is not the usual one.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ModulesError: If the hub refuses or cannot be reached, or the repository is public and
            ``private`` asks for another.
    """
    with refusals(f"Cannot share modules as {repo_id!r}"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        api = _client(endpoint, token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        # The hub leaves a repository that is there already as public as it was.
        if private and not api.model_info(repo_id).private:
            raise ModulesError(
                f"private=True should keep others out; {repo_id!r} is there already and is public. "
                "Nothing was sent. Make it private in its settings, or choose another name."
            )
        if revision is not None and not create_pr and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=data)
            for name, data in contents.items()
        ]
        if EFFECTS not in contents and api.file_exists(repo_id, EFFECTS, revision=revision):
            operations.append(CommitOperationDelete(path_in_repo=EFFECTS))
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
        return commit.pr_url or commit.commit_url


def fetch(
    repo_id: str,
    *,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
    endpoint: str | None,
) -> Path:
    """Download a repository's modules into huggingface_hub's cache, unless they are there.

    Args:
        repo_id: The repository, ``"user/name"``.
        revision: A branch, tag or commit; None for the main branch.
        token: As huggingface_hub takes it.
        cache_dir: Where to; None for its own place.
        local_files_only: Ask no server, only the cache.
        endpoint: The hub's address, if it is not the usual one.

    Returns:
        The file.

    Raises:
        ModulesError: If the hub refuses or cannot be reached, or has no such file.
    """
    with refusals(f"Cannot load modules from {repo_id!r}, which is no folder here"):
        return Path(
            _client(endpoint, token).hf_hub_download(
                repo_id,
                MODULES,
                revision=revision,
                cache_dir=None if cache_dir is None else checked_path(cache_dir),
                local_files_only=local_files_only,
            )
        )


def _client(endpoint: str | None, token: str | bool | None) -> "HfApi":
    """The client; huggingface_hub is slow to import, so it is not before it is needed."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, token=token, library_name="tl_modules")

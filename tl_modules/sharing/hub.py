"""Upload files to the Hugging Face hub and download them, with huggingface_hub's client."""

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
    """Upload files to a repository in one commit; create the repository if it does not exist.

    The commit removes an effects table of an earlier set, because it belongs to other modules.

    Args:
        contents: The bytes of each file by its name; nothing is written to the local disk.
        repo_id: The repository, ``"user/name"``.
        private: Whether the repository is private; None uses the account's default.
        token: The token argument of huggingface_hub.
        revision: The branch, created if it does not exist; None for the main branch.
        commit_message: The commit's summary.
        create_pr: Open a pull request instead of committing.
        endpoint: The hub's address, if it is not the default.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ModulesError: If the hub rejects the request or cannot be reached, or if ``private`` is True
            and the repository exists and is public.
    """
    with refusals(f"Cannot share modules as {repo_id!r}"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        api = _client(endpoint, token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        # create_repo ignores ``private`` for a repository that exists.
        if private and not api.model_info(repo_id).private:
            raise ModulesError(
                f"private=True needs a private repository; {repo_id!r} exists and is public. "
                "Nothing was sent. Make it private in its settings, or choose another name."
            )
        if revision is not None and not create_pr and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=data)
            for name, data in contents.items()
        ]
        # Deleting a file that does not exist would fail the whole commit.
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
    """Download a repository's modules into huggingface_hub's cache, if they are not there.

    Args:
        repo_id: The repository, ``"user/name"``.
        revision: A branch, tag or commit; None for the main branch.
        token: The token argument of huggingface_hub.
        cache_dir: The cache folder; None for the default.
        local_files_only: Use only the cache, without a request to a server.
        endpoint: The hub's address, if it is not the default.

    Returns:
        The path of the file.

    Raises:
        ModulesError: If the hub rejects the request or cannot be reached, or has no such file.
    """
    with refusals(f"Cannot load modules from {repo_id!r}, which is no local folder"):
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
    """Make the client; huggingface_hub is imported here because it is slow to import."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, token=token, library_name="tl_modules")

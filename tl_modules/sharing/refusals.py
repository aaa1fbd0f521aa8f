"""What the hub's client raises, as a ModulesError that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from tl_modules.errors import ModulesError

_LOG_IN = "Log in with `hf auth login`, or pass token=."

_BY_STATUS = {
    401: "the hub asks for a token, or for another one (401), as it also does where there is no "
    f"such repository. Check the name. {_LOG_IN}",
    403: "the token may not do that there (403). Use one with the right to write to the "
    "repository, or to read it if it is private.",
    404: "there is no such repository, or it is private and your token does not open it (404). "
    f"Check the name. {_LOG_IN}",
    413: "the hub finds it too large (413). Share fewer prompts or fewer units.",
    429: "the hub had too many requests (429). Wait a few minutes and try again.",
}


@contextmanager
def refusals(action: str) -> Iterator[None]:
    """Raise a ModulesError for whatever the hub's client raises inside the ``with``.

    Args:
        action: What failed then, such as ``"Cannot load modules from 'user/name'"``.

    Raises:
        ModulesError: In place of the client's errors.
    """
    from huggingface_hub.errors import HfHubHTTPError

    # The base of its errors is that of its HTTP library: httpx or httpx2, by version.
    http_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    try:
        yield
    except ModulesError:
        raise
    # A senseless answer ends in a ValueError or LookupError, a broken upload in a RuntimeError.
    except (http_error, OSError, ValueError, LookupError, RuntimeError) as error:
        raise ModulesError(f"{action}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Why, and what to do: by the first error of the chain that says."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return next((reason for link in chain if (reason := _known(link))), _unknown(chain[-1]))


def _known(error: BaseException) -> str | None:
    """What one error says, if it is one of those that have a remedy."""
    from huggingface_hub import errors

    kinds: dict[Any, str] = {
        errors.HFValidationError: f"{str(error).rstrip('.')}. Use a name such as 'user/name'.",
        errors.OfflineModeIsEnabled: "offline mode is on. Unset HF_HUB_OFFLINE, or use a local "
        "folder: modules.save_pretrained(folder), ModuleSet.from_pretrained(folder).",
        errors.GatedRepoError: "the repository is gated. Ask for access on its page, then log in "
        "with `hf auth login`.",
        errors.RevisionNotFoundError: "the repository has no such revision. Check revision=.",
        errors.RemoteEntryNotFoundError: "the repository has no modules.safetensors, so it holds "
        "no module set. Check the name and the revision.",
    }
    for kind, reason in kinds.items():
        if isinstance(error, kind):
            return reason
    if isinstance(error, errors.RepositoryNotFoundError):
        return _BY_STATUS[404]
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status >= 500:
            return f"the hub had an error of its own ({status}). Try again later."
        return _BY_STATUS.get(status, f"the hub refused ({status}): {error.server_message}.")
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is None:
        return "it is not in the cache. Load it once without local_files_only."
    return None


def _unknown(error: BaseException) -> str:
    """A broken connection, most often, and nothing that the client has a name for."""
    said = str(error).rstrip(".") or type(error).__name__
    return f"{said}. Check the connection and the endpoint, and try again."

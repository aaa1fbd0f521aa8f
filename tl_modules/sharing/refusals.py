"""Turn the exceptions of the hub's client into a ModulesError with a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from tl_modules.errors import ModulesError

_LOG_IN = "Log in with `hf auth login`, or pass token=."

_BY_STATUS = {
    401: "the hub asks for a token, or for another one (401), as it also does if there is no such "
    f"repository. Check the name. {_LOG_IN}",
    403: "the token lacks the permission (403). Use a token that may write to the repository, or "
    "that may read it if it is private.",
    404: "there is no such repository, or it is private and your token may not read it (404). "
    f"Check the name. {_LOG_IN}",
    413: "the upload is too large for the hub (413). Share fewer prompts or fewer units.",
    429: "the hub got too many requests (429). Wait a few minutes and try again.",
}


@contextmanager
def refusals(action: str) -> Iterator[None]:
    """Raise a ModulesError in place of exceptions of the hub's client inside the ``with``.

    Args:
        action: The start of the message, such as ``"Cannot load modules from 'user/name'"``.

    Raises:
        ModulesError: In place of the client's exceptions.
    """
    from huggingface_hub.errors import HfHubHTTPError

    # The client's base exception is that of its HTTP library, which depends on the version.
    http_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    try:
        yield
    except ModulesError:
        raise
    # A malformed response raises a ValueError or LookupError, a broken upload a RuntimeError.
    except (http_error, OSError, ValueError, LookupError, RuntimeError) as error:
        raise ModulesError(f"{action}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the cause and the remedy, from the first exception of the chain that is known."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return next((reason for link in chain if (reason := _known(link))), _unknown(chain[-1]))


def _known(error: BaseException) -> str | None:
    """Return the cause and the remedy of an exception, if it is known."""
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
            return f"the hub had an internal error ({status}). Try again later."
        unknown = f"the hub rejected the request ({status}): {error.server_message}."
        return _BY_STATUS.get(status, unknown)
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is None:
        return "it is not in the cache. Load it once without local_files_only."
    return None


def _unknown(error: BaseException) -> str:
    """Return the message of an unknown exception; most often the connection is broken."""
    message = str(error).rstrip(".") or type(error).__name__
    return f"{message}. Check the connection and the endpoint, and try again."

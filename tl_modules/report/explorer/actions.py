"""What the page of an exploration may ask for, and what is then done."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tl_modules.errors import ModulesError, shown
from tl_modules.report.explorer.session import Session
from tl_modules.runtime.arguments import check_argument

_Action = Callable[[Session, Mapping[str, Any]], bool]
"""What does what the page asks for, and says whether the model has to run again."""


def act(session: Session, message: Mapping[str, Any]) -> bool:
    """Do what the page asks for.

    Args:
        session: The session.
        message: ``{"do": ...}`` with what the action needs. It is untrusted.

    Returns:
        Whether the model has to run again.

    Raises:
        ModulesError: If the page asks for what cannot be done.
    """
    action = _ACTIONS.get(str(message.get("do")))
    if action is None:
        raise ModulesError(
            f"The page asked for {shown(message.get('do'))}, which is unknown. Run the cell again."
        )
    try:
        return action(session, message)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModulesError(
            f"The page sent a malformed message: {error!r}. Run the cell again."
        ) from error


def _ask(session: Session, message: Mapping[str, Any]) -> bool:
    session.ask(**message["question"])
    return bool(session.question.prompt)


def _pin(session: Session, message: Mapping[str, Any]) -> bool:
    session.pin(message["module"])
    return False


def _rename(session: Session, message: Mapping[str, Any]) -> bool:
    session.rename(message["module"], message["name"])
    return False


def _move(session: Session, message: Mapping[str, Any]) -> bool:
    typed = session.positions_of(message["typed"])
    check_argument("listed", message["listed"], Sequence[int])
    listed = np.array(message["listed"], dtype=np.int64)
    session.move(np.concatenate([typed, listed]), message["to"])
    return True


def _edited(edit: Callable[[Session, Mapping[str, Any]], object]) -> _Action:
    """An edit after which the model runs again."""

    def act(session: Session, message: Mapping[str, Any]) -> bool:
        edit(session, message)
        return bool(session.question.prompt)

    return act


_ACTIONS: dict[str, _Action] = {
    "ask": _ask,
    "pin": _pin,
    "rename": _rename,
    "move": _edited(_move),
    "merge": _edited(lambda session, message: session.merge(message["modules"])),
    "split": _edited(
        lambda session, message: session.split(
            message["module"], n=message.get("n"), layer=message.get("layer")
        )
    ),
    "keep_core": _edited(lambda session, said: session.keep_core(said["module"], said["n"])),
    "undo": _edited(lambda session, _: session.undo()),
}
"""What the page may ask for."""

"""What the page of an exploration may ask for, and what is then done."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tl_modules.errors import ModulesError, shown
from tl_modules.report.explorer.session import Session
from tl_modules.runtime.arguments import check_argument

Then = Literal["run", "stop", "go on"]
"""What follows: the model runs for the question, a run in progress stops, or it goes on."""

_Action = Callable[[Session, Mapping[str, Any]], Then]


def act(session: Session, message: Mapping[str, Any]) -> Then:
    """Do what the page asks for.

    Args:
        session: The session.
        message: ``{"do": ...}`` with what the action needs. It is untrusted.

    Returns:
        What follows.

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
    except ModulesError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ModulesError(
            f"The page sent a malformed message: {error!r}. Run the cell again."
        ) from error


def edited(session: Session, edit: Callable[[], object]) -> Then:
    """Edit the set.

    The model runs again if the question is then of other units. Otherwise the answer, or the run
    that looks for it, fits the edited set too.

    Args:
        session: The session.
        edit: Makes the edit.

    Returns:
        ``"run"`` or ``"go on"``.
    """
    before = session.asked()
    edit()
    return "go on" if session.asked().is_like(before) or not session.question.prompt else "run"


def _ask(session: Session, message: Mapping[str, Any]) -> Then:
    session.ask(**message["question"])
    return "run" if session.question.prompt else "stop"


def _pin(session: Session, message: Mapping[str, Any]) -> Then:
    session.pin(message["module"])
    return "go on"


def _move(session: Session, message: Mapping[str, Any]) -> None:
    check_argument("listed", message["listed"], Sequence[int])
    session.move([*session.positions_of(message["typed"]), *message["listed"]], message["to"])


def _edit(do: Callable[[Session, Mapping[str, Any]], object]) -> _Action:
    return lambda session, message: edited(session, lambda: do(session, message))


_ACTIONS: dict[str, _Action] = {
    "ask": _ask,
    "pin": _pin,
    "stop": lambda *_: "stop",
    "rename": _edit(lambda session, said: session.rename(said["module"], said["name"])),
    "move": _edit(_move),
    "merge": _edit(lambda session, message: session.merge(message["modules"])),
    "split": _edit(
        lambda session, message: session.split(
            message["module"], n=message.get("n"), layer=message.get("layer")
        )
    ),
    "keep_core": _edit(lambda session, said: session.keep_core(said["module"], said["n"])),
    "undo": _edit(lambda session, _: session.undo()),
}
"""What the page may ask for."""

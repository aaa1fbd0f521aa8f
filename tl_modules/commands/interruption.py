"""Report on Ctrl-C what a command kept and how to resume it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tl_modules.activations.interrupted import Interrupted

RESUME = "run the same command to resume"


@contextmanager
def on_interrupt(advice: Callable[[], str]) -> Iterator[None]:
    """Report on Ctrl-C what is kept and how to resume.

    Args:
        advice: Returns the second half of the sentence; called when the command is stopped.

    Raises:
        Interrupted: In place of a ``KeyboardInterrupt``.
    """
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise Interrupted(f"{str(stopped) or 'Interrupted'}; {advice()}") from stopped

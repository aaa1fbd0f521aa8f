"""What a command says when Ctrl-C stops it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tl_modules.activations.interrupted import Interrupted

RESUME = "run the same command to resume"


@contextmanager
def on_interrupt(advice: Callable[[], str]) -> Iterator[None]:
    """Say on Ctrl-C what is kept and how to resume.

    Args:
        advice: The second half of the sentence, asked for once the command is stopped.

    Raises:
        Interrupted: In the place of a ``KeyboardInterrupt``.
    """
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise Interrupted(f"{str(stopped) or 'Interrupted'}; {advice()}") from stopped

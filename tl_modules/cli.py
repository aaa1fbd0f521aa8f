"""The command line: ``tl-modules COMMAND``."""

import argparse
import os
import sys
from pathlib import Path

from tl_modules.commands import collect, demo, discover, evaluate, report, test
from tl_modules.commands.options import say
from tl_modules.commands.ranks import check_alone
from tl_modules.commands.wording import in_options
from tl_modules.errors import ModulesError
from tl_modules.files import checked_path

CLOSED_PIPE = 141
"""The status of a program whose reader is gone: 128 and the number of SIGPIPE."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments; by default the process's own.

    Returns:
        0, 1 after a refusal (its message goes to standard error), 130 after an interruption, or 141
        where nothing reads the output any more (``tl-modules ... | head -1``).
    """
    try:
        try:
            return _run(argv)
        finally:  # here, for at the end of the process Python could only complain
            sys.stdout.flush()
            sys.stderr.flush()
    except BrokenPipeError:
        _discard_output()
        return CLOSED_PIPE


def _run(argv: list[str] | None) -> int:
    """Run a command, and say why it did not end."""
    parser = argparse.ArgumentParser(
        prog="tl-modules",
        description="Find functional modules in a hooked transformer and test causally what they "
        "do.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for command in (demo, collect, discover, evaluate, test, report):
        command.add_parser(commands)
    args = parser.parse_args(argv)
    try:
        if not getattr(args, "may_share", False):
            check_alone()
        for name, value in vars(args).items():
            setattr(args, name, _with_checked_paths(value))
        args.run(args)
    except ModulesError as error:
        help_text = commands.choices[args.command].format_help()
        say(f"tl-modules: {in_options(str(error), help_text)}", sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        say(f"tl-modules: {str(stopped) or 'Interrupted'}", sys.stderr)
        return 130
    return 0


def _with_checked_paths(value: object) -> object:
    """An option's value, or several, with paths as ``checked_path`` gives them."""
    if isinstance(value, list):
        return [_with_checked_paths(each) for each in value]
    return checked_path(value) if isinstance(value, Path) else value


def _discard_output() -> None:
    """Send what is still to be written nowhere: the pipe is closed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):  # not a file: nothing is flushed to it at the end
            continue
    os.close(nowhere)

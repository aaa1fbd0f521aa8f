"""The command line: ``tl-modules COMMAND``."""

import argparse
import os
import sys
from contextlib import suppress
from typing import TextIO

from tl_modules.commands import collect, core, demo, discover, evaluate, report, test
from tl_modules.commands.options import UnwritableOutput, say, with_checked_paths, writable_output
from tl_modules.commands.processes import check_alone
from tl_modules.commands.wording import in_options, warnings_in_options
from tl_modules.errors import ModulesError

CLOSED_PIPE = 141
"""The exit status after a closed pipe: 128 plus the number of SIGPIPE."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit status: 0 on success; 1 after an error, whose message goes to standard error; 130
        after an interruption; 141 if nothing reads the output any more (``tl-modules ... | head
        -1``).
    """
    try:
        try:
            return _run(argv)
        finally:  # at the end of the process, Python could only print a failure to flush
            _flush()
    except BrokenPipeError:
        _discard_output()
        return CLOSED_PIPE
    except UnwritableOutput as error:
        _discard_output(sys.stdout)
        with suppress(OSError, ModulesError):  # standard error may be on the same full disk
            say(f"tl-modules: {error}", sys.stderr)
        return 1


def _flush() -> None:
    """Flush standard output and standard error; a closed one is None.

    Raises:
        UnwritableOutput: If standard output cannot be written.
    """
    if sys.stdout is not None:
        with writable_output():
            sys.stdout.flush()
    if sys.stderr is not None:
        sys.stderr.flush()


def _run(argv: list[str] | None) -> int:
    """Parse the arguments, run the command, and print the message of an error."""
    parser = argparse.ArgumentParser(
        prog="tl-modules",
        description="Find functional modules in a hooked transformer, and test causally what they "
        "do.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for command in (demo, collect, discover, evaluate, test, core, report):
        command.add_parser(commands)
    args = parser.parse_args(argv)
    help_text = commands.choices[args.command].format_help()
    try:
        # Several processes of the other commands would write the same files.
        if not getattr(args, "may_share", False):
            check_alone()
        for name, value in vars(args).items():
            setattr(args, name, with_checked_paths(value))
        with warnings_in_options(help_text):
            args.run(args)
    except UnwritableOutput:
        raise
    except ModulesError as error:
        say(f"tl-modules: {in_options(str(error), help_text)}", sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        say(f"tl-modules: {str(stopped) or 'Interrupted'}", sys.stderr)
        return 130
    return 0


def _discard_output(*streams: TextIO) -> None:
    """Redirect outputs to nowhere, so that flushing them at exit cannot fail; by default both."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams or (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError, AttributeError):  # no file: nothing is flushed at the end
            continue
    os.close(nowhere)

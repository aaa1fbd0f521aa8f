"""The command line: ``tl-modules COMMAND``."""

import argparse
import sys
from pathlib import Path

from tl_modules.commands import collect, demo, discover, evaluate, report, test
from tl_modules.commands.options import say
from tl_modules.commands.ranks import check_alone
from tl_modules.errors import ModulesError
from tl_modules.files import checked_path


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments; by default the process's own.

    Returns:
        0, 1 after a refusal (its message goes to standard error), or 130 after an interruption.
    """
    parser = argparse.ArgumentParser(
        prog="tl-modules",
        description="Find functional modules in a hooked transformer and test causally what they "
        "do.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
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
        say(f"tl-modules: {error}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("tl-modules: interrupted", sys.stderr)
        return 130
    return 0


def _with_checked_paths(value: object) -> object:
    """An option's value, or several, with paths as ``checked_path`` gives them."""
    if isinstance(value, list):
        return [_with_checked_paths(each) for each in value]
    return checked_path(value) if isinstance(value, Path) else value

"""The one exception type of the package."""

from numbers import Integral
from types import UnionType


class ModulesError(ValueError):
    """A refusal: what rule was broken, by which value, and what to do instead.

    Every refusal of bad input, anywhere in the package, is one of these, so that a caller needs a
    single ``except``. It is a ``ValueError`` because that is what people catch already.
    """


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the choices.

    Args:
        name: What the value is called in the message.
        value: What the caller passed.
        choices: What it may be.

    Raises:
        ModulesError: If ``value`` is not among ``choices``.

    >>> check_choice("method", "mean", ("zero", "mean"))
    >>> check_choice("method", "men", ("zero", "mean"))
    Traceback (most recent call last):
    tl_modules.errors.ModulesError: method should be one of 'zero', 'mean'; got 'men'.
    """
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ModulesError(f"{name} should be one of {listed}; got {shown(value)}.")


def check_seed(seed: int) -> None:
    """Refuse a seed that not every generator takes.

    Raises:
        ModulesError: If it is no whole number, or lies outside ``0 .. 2**32 - 1``.

    >>> check_seed(-1)
    Traceback (most recent call last):
    tl_modules.errors.ModulesError: seed should lie between 0 and 2**32 - 1; got -1.
    """
    _check_whole_number("seed", seed)
    if not 0 <= seed < 2**32:
        raise ModulesError(f"seed should lie between 0 and 2**32 - 1; got {seed}.")


def check_at_least(name: str, value: int, least: int) -> None:
    """Refuse what is no whole number, or one that is too small.

    Raises:
        ModulesError: If ``value`` is no whole number, or is below ``least``.

    >>> check_at_least("batch_size", 0, 1)
    Traceback (most recent call last):
    tl_modules.errors.ModulesError: batch_size should be at least 1; got 0.
    """
    _check_whole_number(name, value)
    if value < least:
        raise ModulesError(f"{name} should be at least {least}; got {value}.")


def _check_whole_number(name: str, value: object) -> None:
    # Python's True and 2.0 compare like numbers, but a count of them is a slip.
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ModulesError(f"{name} should be a whole number; got {shown(value)}.")


def check_type(
    value: object, types: type | UnionType | tuple[type, ...], rule: str, remedy: str
) -> None:
    """Refuse a value of another type.

    Args:
        value: What the caller passed.
        types: What it may be.
        rule: What it should be, as the message says it.
        remedy: What to pass instead.

    Raises:
        ModulesError: If it is of none of these types.

    >>> check_type(2.5, int, "n_units should be a whole number", "16 is usual.")
    Traceback (most recent call last):
    tl_modules.errors.ModulesError: n_units should be a whole number; got 2.5. 16 is usual.
    """
    if not isinstance(value, types):
        raise ModulesError(f"{rule}; got {shown(value)}. {remedy}")


def shown(value: object) -> str:
    """A value as a message shows it: what is short in full, of the rest the type's name.

    >>> shown("a"), shown([1, 2])
    ("'a'", 'list')
    """
    if value is None or isinstance(value, int | float):
        return repr(value)
    return _shortened(repr(value)) if isinstance(value, str) else type(value).__name__


def _shortened(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"

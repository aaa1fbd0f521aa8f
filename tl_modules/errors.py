"""The package's one exception type, and the checks that raise it."""

from numbers import Integral, Real
from types import UnionType


class ModulesError(ValueError):
    """Raised for every bad input; the message names the rule, the value and the remedy.

    The package raises no other exception for bad input, so a caller needs a single ``except``. It
    is a ``ValueError``, so code that catches ``ValueError`` catches it too.
    """


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the choices.

    Args:
        name: The value's name in the message.
        value: The value that the caller passed.
        choices: The valid values.

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
    """Refuse a seed that some random generators do not accept.

    Raises:
        ModulesError: If the seed is not a whole number, or lies outside ``0 .. 2**32 - 1``.

    >>> check_seed(-1)
    Traceback (most recent call last):
    tl_modules.errors.ModulesError: seed should lie between 0 and 2**32 - 1; got -1.
    """
    _check_whole_number("seed", seed)
    if not 0 <= seed < 2**32:
        raise ModulesError(f"seed should lie between 0 and 2**32 - 1; got {seed}.")


def check_at_least(name: str, value: int, least: int) -> None:
    """Refuse a value that is not a whole number, or is too small.

    Args:
        name: The value's name in the message.
        value: The value that the caller passed.
        least: The smallest valid value.

    Raises:
        ModulesError: If ``value`` is not a whole number, or is below ``least``.

    >>> check_at_least("batch_size", 0, 1)
    Traceback (most recent call last):
    tl_modules.errors.ModulesError: batch_size should be at least 1; got 0.
    """
    _check_whole_number(name, value)
    if value < least:
        raise ModulesError(f"{name} should be at least {least}; got {shown(int(value))}.")


def count_or_share(name: str, value: int | float, total: int) -> int:
    """A number of units that is given as such or as a share.

    Args:
        name: The argument's name.
        value: A whole number from 1, or a share of ``total`` above 0 and at most 1.
        total: How many units there are.

    Returns:
        The number, at least 1; a whole number may be above ``total``.

    Raises:
        ModulesError: If the value is neither.

    >>> count_or_share("n", 3, 10), count_or_share("n", 0.5, 10)
    (3, 5)
    """
    is_count = isinstance(value, Integral) and not isinstance(value, bool)
    is_share = isinstance(value, Real) and not isinstance(value, Integral)
    if (is_count and value >= 1) or (is_share and 0 < value <= 1):
        return int(value) if is_count else max(1, round(float(value) * total))
    raise ModulesError(
        f"{name} should be a whole number of units from 1, or a share above 0 and at most 1; got "
        f"{shown(value)}. Pass 100, or 0.1 for a tenth."
    )


def _check_whole_number(name: str, value: object) -> None:
    # Python takes True and 2.0 for numbers, but as a count each is most likely a mistake.
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ModulesError(f"{name} should be a whole number; got {shown(value)}.")


def check_type(
    value: object, types: type | UnionType | tuple[type, ...], rule: str, remedy: str
) -> None:
    """Refuse a value that is of none of the given types.

    Args:
        value: The value that the caller passed.
        types: The valid types.
        rule: The message's first part, such as "n_units should be a whole number".
        remedy: The message's last sentence: what to pass instead.

    Raises:
        ModulesError: If the value is of none of these types.

    >>> check_type(2.5, int, "n_units should be a whole number", "16 is usual.")
    Traceback (most recent call last):
    tl_modules.errors.ModulesError: n_units should be a whole number; got 2.5. 16 is usual.
    """
    if not isinstance(value, types):
        raise ModulesError(f"{rule}; got {shown(value)}. {remedy}")


def shown(value: object) -> str:
    """A value as messages show it: a number or text as Python writes it, else the type's name.

    A long text is shortened, and so is a number, of which Python writes at most 4,300 digits.

    >>> shown("a"), shown([1, 2]), shown(10**5000)
    ("'a'", 'list', 'a whole number of more than 60 digits')
    """
    if isinstance(value, int) and abs(value) >= 10**60:
        return f"a {'negative ' if value < 0 else ''}whole number of more than 60 digits"
    if value is None or isinstance(value, int | float):
        return repr(value)
    return _shortened(repr(value)) if isinstance(value, str) else type(value).__name__


def _shortened(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"

"""The one exception type of the package."""


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
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ModulesError(f"{name} should be one of {listed}; got {value!r}.")


def check_seed(seed: int) -> None:
    """Refuse a seed that not every generator takes.

    Raises:
        ModulesError: If it lies outside ``0 .. 2**32 - 1``.

    >>> check_seed(-1)
    Traceback (most recent call last):
    tl_modules.errors.ModulesError: seed should lie between 0 and 2**32 - 1; got -1.
    """
    if not 0 <= seed < 2**32:
        raise ModulesError(f"seed should lie between 0 and 2**32 - 1; got {seed}.")


def check_at_least(name: str, value: int, least: int) -> None:
    """Refuse a whole number that is too small.

    Raises:
        ModulesError: If ``value`` is below ``least``.

    >>> check_at_least("batch_size", 0, 1)
    Traceback (most recent call last):
    tl_modules.errors.ModulesError: batch_size should be at least 1; got 0.
    """
    if value < least:
        raise ModulesError(f"{name} should be at least {least}; got {value}.")


def check_type(value: object, types: type | tuple[type, ...], rule: str, remedy: str) -> None:
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
        # Of what may be long the name of its type.
        short = value is None or isinstance(value, str | int | float)
        shown = repr(value) if short else type(value).__name__
        raise ModulesError(f"{rule}; got {shown}. {remedy}")

"""A warning comes once a call, and names the caller's own line."""

import warnings

import pytest

from tl_modules.runtime.call_warnings import warn_once, warns_once

# Stands for a file of the package, as the frames of its functions tell.
INSIDE = """
def inner():
    for _ in range(3):
        warn_once("kind", "said")

@warns_once
def outer(fail=False):
    inner()
    other()
    if fail:
        raise ValueError

@warns_once
def other():
    inner()
"""


@pytest.fixture
def package():
    names = {"__name__": "tl_modules.inside", "warn_once": warn_once, "warns_once": warns_once}
    exec(compile(INSIDE, "inside.py", "exec"), names)
    return names


def said(function, *args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*args)
    return caught


def test_a_call_says_it_once_however_deep_and_the_next_call_again(package):
    for _ in range(2):
        assert [str(each.message) for each in said(package["outer"])] == ["said"]
    assert len(said(package["inner"])) == 3  # no public call


def test_a_call_that_fails_leaves_nothing_behind(package):
    with pytest.raises(ValueError):  # noqa: PT011 - it has no message
        said(package["outer"], True)
    assert len(said(package["outer"])) == 1


def test_the_warning_points_at_the_line_that_called_the_package(package):
    (warned,) = said(lambda: package["outer"]())
    assert warned.filename == __file__
    assert warned.category is UserWarning

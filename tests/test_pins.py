import platform
import sys

import pytest

from tests import pins

MADE_ON = ("linux", "x86_64", (3, 11))
HERE = (sys.platform, platform.machine(), sys.version_info[:2])


@pytest.mark.skipif(HERE != MADE_ON, reason="other systems need packages that are not pinned")
def test_all_that_the_set_up_installs_is_pinned_and_nothing_else():
    assert pins.pinned() == pins.needed(pins.asked_for()), "run 'make lock'"


def test_an_unmet_requirement_is_found():
    with pytest.raises(ValueError, match=r"^packaging \S+ is installed, but packaging<1 is needed"):
        pins.needed(["packaging<1"])

"""The two sets of prompts that an intervention is fitted to."""

from collections.abc import Sequence, Sized

import pandas as pd

from tl_modules.errors import ModulesError, check_type
from tl_modules.tokens import prompt_frame


def side_frames(
    towards: Sequence[str] | pd.DataFrame, against: Sequence[str] | pd.DataFrame
) -> list[pd.DataFrame]:
    """Both sets as frames.

    Args:
        towards: Prompts of one kind: strings, or a frame with ``prompt``.
        against: Prompts of the other.

    Returns:
        The two frames.

    Raises:
        ModulesError: If one is no list and no frame, or holds fewer than two prompts.
    """
    for name, prompts in (("towards", towards), ("against", against)):
        check_type(
            prompts,
            Sized,  # no generator, which can be read only once
            f"{name} should be a list of strings, or a frame with 'prompt'",
            "Pass a list.",
        )
        if len(prompts) < 2:
            raise ModulesError(f"{name} should hold at least two prompts; got {len(prompts)}.")
    return [prompt_frame(prompts) for prompts in (towards, against)]

"""How a question is asked: directly, step by step, or with all its premises said again first."""

import re
from typing import Literal, get_args

import pandas as pd

from tl_modules.errors import ModulesError, shown

Style = Literal["direct", "cot", "lot"]
"""``direct``: for the answer alone. ``cot``: to think step by step (chain of thought). ``lot``: to
observe, expand and echo the relevant information first, and then to think step by step (language of
thoughts)."""

STYLES: tuple[Style, ...] = get_args(Style)

_QUESTION = "{question}\nPossible answers:\n{choices}\n"

_TEMPLATES: dict[str, str] = {
    "direct": _QUESTION + "Reply with the answer alone.",
    "cot": _QUESTION + "Let us think step by step.",
    "lot": _QUESTION + "Let us first observe, expand and echo all the information that matters for "
    "the question, and then think step by step.",
}


def ask_in(frame: pd.DataFrame, style: str) -> list[str]:
    """Fill each question into the template that the model is asked.

    Args:
        frame: Columns ``prompt`` and ``choices``.
        style: One of ``STYLES``, or a template with ``{question}`` and, optionally, ``{choices}``
            (one per line).

    Raises:
        ModulesError: If ``style`` is neither.
    """
    template = _template(style)
    listed = ["\n".join(f"- {choice}" for choice in choices) for choices in frame["choices"]]
    # str.format would fail on a question that contains braces.
    values = [
        {"{question}": question, "{choices}": choices}
        for question, choices in zip(frame["prompt"], listed, strict=True)
    ]
    return [
        re.sub(
            r"\{question\}|\{choices\}",
            lambda match, fields=fields: fields[match.group()],
            template,
        )
        for fields in values
    ]


def _template(style: str) -> str:
    if isinstance(style, str):
        template = _TEMPLATES.get(style, style)
        if "{question}" in template:
            return template
    raise ModulesError(
        f"style should be {', '.join(map(repr, STYLES))}, or a template with '{{question}}'; got "
        f"{shown(style)}. Add '{{question}}' where the question belongs."
    )

"""Show prompts' tokens, coloured by how active a module is at each token."""

import html
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.modules.module import Module, as_list
from tl_modules.plots.style import module_name
from tl_modules.runtime.arguments import checked
from tl_modules.saving import files
from tl_modules.tables.html_tables import TEXT_ONLY
from tl_modules.tables.text import visible

_STRONGEST = 0.6
"""Opacity of the strongest token. Text keeps a contrast above 4.5:1 on light and dark pages."""

_STYLE = """<style>
.tlm-tokens p { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.6; margin: .4em 0; }
.tlm-tokens summary { cursor: pointer; }
</style>"""


@dataclass(frozen=True, repr=False)
class TokenView:
    """The result of ``plot_tokens``: HTML that Jupyter shows."""

    html: str
    """An HTML fragment without scripts; markup in prompts is escaped."""

    def save(self, path: str | Path) -> None:
        """Write the tokens to a separate HTML page.

        Args:
            path: The HTML file.

        Raises:
            ModulesError: If the file cannot be written.
        """
        page = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tokens</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"></head>'
            f"<body><main>{self.html}</main></body></html>"
        )
        files.write_bytes(path, page.encode("utf-8", errors="replace"))

    def _repr_html_(self) -> str:
        """Show Jupyter the HTML."""
        return self.html

    def __repr__(self) -> str:
        """Return one line, without the HTML."""
        return f"TokenView({len(self.html):,} characters of HTML; .save(path) writes it)"


@checked
def plot_tokens(
    values: pd.DataFrame, modules: Module | Iterable[Module] | None = None
) -> TokenView:
    """Show prompts' tokens coloured by a module's activation, to see what the module responds to.

    Each module has a section that opens on a click. Colour starts at 1, the module's average
    activity, and is full at the strongest token shown. Special tokens and each prompt's first token
    are not coloured, because they are outliers in every prompt. Pointing at a token shows its
    value.

    Args:
        values: The table that ``token_values`` returned.
        modules: The modules to show with their names: a ``ModuleSet``, several modules, or one
            module. Without it, all modules of the table are shown with their numbers.

    Returns:
        HTML that Jupyter shows.

    Raises:
        ModulesError: If the table has another index, or lacks a module.
    """
    names = names_shown(values, modules)
    parts = [
        f"<details{' open' if number == next(iter(names)) else ''}><summary>module {name}: "
        f"strongest {_strongest(values, number):.1f} times its average</summary>"
        + "".join(f'<p dir="auto">{spans}</p>' for spans in token_spans(values, number))
        + "</details>"
        for number, name in names.items()
    ]
    return TokenView(
        f'<div class="tlm-tokens {TEXT_ONLY}">{_STYLE}<p><b>Tokens by module activation</b>\n'
        "mean over the module's units of |activation| / the unit's mean; colour begins at 1</p>"
        f"{''.join(parts)}</div>"
    )


def names_shown(values: pd.DataFrame, modules: Module | Iterable[Module] | None) -> dict[int, str]:
    """The modules to show of a table of ``token_values``: their names by their numbers.

    Args:
        values: The table.
        modules: The modules to show; None for all of the table.

    Raises:
        ModulesError: If the table has another index, or lacks a module.
    """
    if list(values.index.names) != ["prompt", "position"] or "special" not in values.columns:
        raise ModulesError(
            "values should be the table that token_values returned; its index is "
            f"{list(values.index.names)}. Pass the whole table."
        )
    numbers = [column for column in values.columns if column not in ("token", "special")]
    if modules is None:
        return {number: str(number) for number in numbers}
    names = {module.label: module_name(module) for module in as_list(modules)}
    # A module set of another discovery has the same numbers; only missing ones can be noticed.
    missing = sorted(set(names) - set(numbers))
    if missing:
        raise ModulesError(
            f"values should hold the modules to show; {missing} are missing. Pass the module set "
            "that token_values got."
        )
    return names


def token_spans(values: pd.DataFrame, module: int) -> list[str]:
    """Return each prompt's tokens as HTML, coloured by a module's values."""
    strongest = _strongest(values, module)
    module_values = values[module].to_numpy(dtype=float)
    shade = np.clip((module_values - 1) / max(strongest - 1, 1e-9), 0, 1) * _STRONGEST
    shade[values["special"].to_numpy(dtype=bool)] = 0
    texts = [
        f'<span style="background:rgba(213,94,0,{alpha:.2f})" title="{value:.2f}">{token}</span>'
        if alpha >= 0.02
        else token
        for token, value, alpha in zip(
            (html.escape(visible(token)) for token in values["token"]),
            module_values,
            shade,
            strict=True,
        )
    ]
    prompts = values.index.get_level_values("prompt").to_numpy()
    starts = np.flatnonzero(np.diff(prompts, prepend=-1))
    return ["".join(part) for part in _split(texts, starts.tolist())]


def _split(texts: list[str], starts: list[int]) -> list[list[str]]:
    """Split the texts at the starts."""
    ends = [*starts[1:], len(texts)]
    return [texts[start:end] for start, end in zip(starts, ends, strict=True)]


def _strongest(values: pd.DataFrame, module: int) -> float:
    """Return the largest value of a token that is not special; 1 if there is none."""
    ordinary = values.loc[~values["special"].to_numpy(dtype=bool), module]
    return float(ordinary.max()) if len(ordinary) else 1.0

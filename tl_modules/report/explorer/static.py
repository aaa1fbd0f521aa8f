"""The state of an exploration as HTML without scripts, for places where widgets do not run."""

import html
from typing import Any

import pandas as pd

from tl_modules.tables.html_tables import TEXT_ONLY, html_table

_STRONGEST = 0.6  # opacity of the strongest token, as in plot_tokens


def static_html(state: dict[str, Any], note: str) -> str:
    """Show what ``payload`` described.

    Args:
        state: What ``payload`` returned.
        note: A sentence above it, such as why there is nothing to click.

    Returns:
        HTML without scripts. All texts are escaped.
    """
    parts = [f"<p><b>{html.escape(state['title'])}</b></p>", f"<p>{html.escape(note)}</p>"]
    if state["sentence"]:
        parts.append(f"<p>{html.escape(state['sentence'])}</p>")
    parts.append(html_table("Modules", _modules(state)))
    if state["outcome"] is not None:
        parts += _outcome(state)
    if state["history"]:
        parts.append(html_table("Steps", pd.DataFrame({"step": state["history"]})))
    return f'<div class="{TEXT_ONLY}">{"".join(parts)}</div>'


def _modules(state: dict[str, Any]) -> pd.DataFrame:
    chosen = set(state["question"]["chosen"])
    rows = [
        {
            "module": one["label"],
            "name": one["name"],
            "verdict": one["verdict"],
            "n_units": one["n_units"],
            "chosen": "chosen" if one["label"] in chosen else "",
            "pinned": "pinned" if one["pinned"] else "",
        }
        for one in sorted(state["modules"], key=lambda one: (not one["pinned"], one["label"]))
    ]
    frame = pd.DataFrame(rows)
    return frame.loc[:, [bool((frame[name] != "").any()) for name in frame]]


def _outcome(state: dict[str, Any]) -> list[str]:
    """What was asked, coloured tokens, and the tables of the runs."""
    found = state["outcome"]
    parts = [f"<p><b>{html.escape(found['note'])}</b></p>"] if found["note"] else []
    n = found["n_units"]
    size = f"{n:,} unit{'' if n == 1 else 's'} changed; the control: as many random ones."
    parts.append(f"<p><b>{html.escape(found['asked'])}</b> {size}</p>")
    parts.append(_spans(found["tokens"]))
    parts.append(html_table("Loss, nats per token", pd.DataFrame(found["losses"])))
    parts.append(html_table("Probability of the next token", pd.DataFrame(found["next_tokens"])))
    if found["texts"]:
        parts.append(html_table("What the model writes", pd.DataFrame(found["texts"]), widest=2000))
    return parts


def _spans(tokens: list[dict[str, Any]]) -> str:
    """The prompt, each token coloured by the modules' activity above their average."""
    ordinary = [one["activity"] or 0.0 for one in tokens if not one["special"]]
    strongest = max([1.0, *ordinary])
    parts = []
    for one in tokens:
        text, activity = html.escape(one["token"]), one["activity"] or 0.0
        share = 0.0 if one["special"] else (activity - 1) / max(strongest - 1, 1e-9)
        alpha = _STRONGEST * min(max(share, 0.0), 1.0)
        if alpha >= 0.02:
            text = f'<span style="background:rgba(213,94,0,{alpha:.2f})">{text}</span>'
        parts.append(text)
    style = "white-space:pre-wrap;overflow-wrap:anywhere"
    return f'<p dir="auto" style="{style}">{"".join(parts)}</p>'

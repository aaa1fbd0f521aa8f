"""Write the model card of shared modules from the contents of their file."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tl_modules.activations.reading import Reading
from tl_modules.sharing.effects import COLUMNS
from tl_modules.sharing.markdown import markdown_table, markdown_text
from tl_modules.tables.effects_frame import positions_said, split_runs
from tl_modules.tables.labels import label_texts
from tl_modules.tables.text import isolated
from tl_modules.tables.verdicts import Tested, has_verdicts, verdict_sentence

TAGS = ["transformer-lens", "mechanistic-interpretability", "functional-modules"]

_MOST_CATEGORIES = 20


def model_card(
    header: dict[str, Any],
    modules: pd.DataFrame,
    *,
    name: str,
    n_shared: int = 0,
    revision: str | None = None,
    effects: pd.DataFrame | None = None,
    licence: str | None = None,
) -> str:
    """Write the card: what the modules are, how to load them, how they were found, their limits.

    Args:
        header: The header of the modules' file, as ``ModuleSet.save`` writes it.
        modules: One row per module.
        n_shared: How many units were set aside because every category needs them.
        name: The repository or folder to load the modules from.
        revision: The modules' branch, if it is not the main branch.
        effects: The table that ``module_effects`` returned, validated by ``check_controls``.
        licence: The hub's name of the licence, such as ``"cc-by-4.0"``.

    Returns:
        Markdown under a block of YAML. Markup in texts of the set is escaped.
    """
    # Not Jinja's autoescaping, which escapes HTML only: Markdown has more marks.
    environment = Environment(
        loader=PackageLoader("tl_modules.sharing"),
        autoescape=False,
        finalize=lambda value: value if isinstance(value, Markup) else markdown_text(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = lambda value: Markup(json.dumps(value))
    samples = header["samples"]
    return environment.get_template("card.md.j2").render(
        **header,
        metadata=Markup(_metadata(header["model_name"], licence)),
        name=name,
        revision=revision,
        n_units=sum(header["units"]["widths"]),
        n_background=sum(header["units"]["widths"]) - int(modules["n_units"].to_numpy().sum()),
        n_shared=n_shared,
        n_samples=int(modules["n_samples"].to_numpy().sum()),
        categories=_categories(samples.get("category", [])),
        has_prompts="prompt" in samples,
        other_columns=[column for column in samples if column not in ("prompt", "category")],
        read=str(Reading.from_dict(header["reading"])),
        n_starts=len(next(iter((header["starts"] or {}).values()), [])),
        options=Markup(_options(header)),
        has_tested="shared_by_all" in modules,
        has_scores="label_auc" in modules,
        table=Markup(markdown_table(modules)),
        effects=None if effects is None else Markup(markdown_table(effects.loc[:, list(COLUMNS)])),
        sentence=None
        if effects is None or not has_verdicts(effects)
        else _sentences(effects, header.get("holds", "modules")),
        changed=None if effects is None else positions_said(effects),
    )


def _sentences(effects: pd.DataFrame, of: Tested) -> str:
    """The verdict on each run, with what tells it apart if there are several."""
    runs = split_runs(effects)
    said = [verdict_sentence(table, of=of) for _, table in runs]
    if len(runs) == 1:
        return said[0]
    differ = [name for name in runs[0][0] if len({run[name] for run, _ in runs}) > 1]
    names = [", ".join(f"{name} {run[name]}" for name in differ) for run, _ in runs]
    return " ".join(f"{name}: {each}" for name, each in zip(names, said, strict=True))


def _metadata(model_name: str, licence: str | None) -> str:
    """Write the YAML block that the hub parses."""
    from huggingface_hub import ModelCardData

    return ModelCardData(
        library_name="tl_modules",
        tags=TAGS,
        license=licence,
        base_model=model_name if _is_on_the_hub(model_name) else None,
    ).to_yaml()


def _is_on_the_hub(model_name: str) -> bool:
    """Whether a name has the form of a repository, ``user/name``, and is no local folder."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(model_name)
    except HFValidationError:
        return False
    return "/" in model_name and not Path(model_name).exists()


def _categories(values: list[Any]) -> Markup:
    """List the categories with their numbers of samples, the largest first."""
    counts = Counter(filter(None, label_texts(values)))
    most = counts.most_common(_MOST_CATEGORIES)
    shown = [f"{isolated(markdown_text(name))} {count:,}" for name, count in most]
    rest = len(counts) - len(shown)
    return Markup(", ".join(shown) + (f" and {rest} more" if rest else ""))


def _options(header: dict[str, Any]) -> str:
    """Write the arguments of ``collect`` that the file keeps, as code."""
    arguments = {"units": header["units"].get("site")} | header["reading"]
    return "".join(f", {name}={value!r}" for name, value in arguments.items() if value is not None)

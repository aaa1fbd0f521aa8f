"""How Sphinx builds the documentation: ``make docs``."""

import importlib.metadata
import re
from typing import Any

project = "tl_modules"
author = "the tl_modules authors"
release = importlib.metadata.version("tl-modules")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "tl_modules"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # the docstrings give shapes, units and ranges
add_module_names = False
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False

_LITERAL = re.compile(r"(``.*?``)")


def plain_fields(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]):
    """Keep napoleon from taking a field's text up to its first colon for a type."""
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]  # an empty comment, which it takes for the first line


def escape_bars(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]):
    """Keep magnitudes, ``|a|``, from being substitutions."""
    for at, line in enumerate(lines):
        parts = _LITERAL.split(line)
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[at] = "".join(parts)


def setup(app: Any) -> None:
    """Say what docstrings go through, before and after napoleon."""
    app.connect("autodoc-process-docstring", plain_fields, priority=400)
    app.connect("autodoc-process-docstring", escape_bars, priority=600)

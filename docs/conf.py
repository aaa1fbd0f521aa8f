"""How Sphinx builds the documentation: ``make docs``."""

import importlib
import importlib.metadata
import pkgutil
import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref

import tl_modules

project = "tl_modules"
author = "the tl_modules authors"
release = importlib.metadata.version("tl-modules")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "tl_modules"
html_copy_source = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]

myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # the docstrings give shapes, units and ranges
add_module_names = False
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False

_LITERAL = re.compile(r"(``.*?``)")
_ROOMS = [
    importlib.import_module(f"tl_modules.{module.name}")
    for module in pkgutil.iter_modules(tl_modules.__path__)
    if module.ispkg
]
_FACES = "|".join(room.__name__.removeprefix("tl_modules.") for room in _ROOMS)
_NAME = re.compile(rf"(?:tlm\.(?:(?:{_FACES})\.)?)?([A-Za-z]\w*(?:\.\w+)?)(\(.*\))?", re.DOTALL)
_HOMES = dict.fromkeys(("ModulesError", "Site", "Units"), "tl_modules") | {
    name: room.__name__ for room in _ROOMS for name in getattr(room, "__all__", ())
}


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


def link_names(app: Any, doctree: nodes.document):
    """Link each public name in a literal to the reference; pages and docstrings stay plain.

    A bare lower-case word ("selectivity") may be a column's name, so it is linked only in the
    reference's tables of names.
    """
    in_reference = app.env.docname.startswith("reference/")
    for literal in list(doctree.findall(nodes.literal)):
        found = _NAME.fullmatch(literal.astext())
        if found is None or isinstance(
            literal.parent, nodes.title | nodes.reference | pending_xref
        ):
            continue
        name, called = found.groups()
        home = _HOMES.get(name.partition(".")[0])
        is_word = not called and name.isalpha() and name.islower()
        if home is None or (is_word and not (in_reference and _in_first_column(literal))):
            continue
        link = pending_xref(
            "", refdomain="py", reftype="obj", reftarget=f"{home}.{name}", refdoc=app.env.docname
        )
        literal.replace_self(link)
        link += literal


def _in_first_column(node: nodes.Node) -> bool:
    """Whether it stands in the first cell of a table's row."""
    while node is not None and not isinstance(node, nodes.entry):
        node = node.parent
    return node is not None and node.parent.index(node) == 0


def setup(app: Any) -> None:
    """Say what docstrings and pages go through."""
    app.connect("autodoc-process-docstring", plain_fields, priority=400)
    app.connect("autodoc-process-docstring", escape_bars, priority=600)
    app.connect("doctree-read", link_names)

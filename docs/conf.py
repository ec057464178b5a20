"""Builds the documentation: ``sphinx-build -W --keep-going -b html docs docs/_build/html``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import Element, reference
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.intersphinx import resolve_reference_any_inventory

import flask_uow

sys.path.insert(0, str(Path(__file__).parent / "inventories"))
from renew import SITES

project = "flask_uow"
author = "the flask_uow authors"
project_copyright = "2026, the flask_uow authors"
version = release = flask_uow.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
intersphinx_mapping = {name: (site, f"inventories/{name}.inv") for name, site in SITES.items()}

# Each class that a signature or a docstring names is documented here or there, but for:
nitpicky = True
nitpick_ignore_regex = [
    (r"py:(class|obj)", r"(.*\.)?([FKPST]|Key|ResponseT)"),  # type variables
    ("py:class", r"(.*\.)?(Extension|Has\w+|PageRequest|PageSource)"),  # protocols of arguments
    ("py:class", r"(.*\.)?(Count|Expectation|UnitRegistry|UnitSession|_\w+)"),  # details
    ("py:class", r"pytest\..*|Script|ExecutableReturnsRows|dict\[str"),  # not in an inventory
    ("py:class", r"flask_uow\.compat\.extension\.EnginesByBindKey"),  # documented as Engines
]
# Names as signatures have them: as in the code that is only imported for the type checkers.
DOCUMENTED = {"Select": "sqlalchemy.sql.expression.Select"}

html_theme = "furo"
html_title = "flask_uow"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_js_files = [("table-labels.js", {"defer": "defer"})]


def link_to_the_documented_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: Element
) -> reference | None:
    """Flask documents ``flask.app.Flask``, as signatures have it, by the name ``flask.Flask``."""
    name = node.get("reftarget", "")
    node["reftarget"] = DOCUMENTED.get(name) or re.sub(r"^flask\.\w+\.", "flask.", name)
    return resolve_reference_any_inventory(env, False, node, text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add what the configuration has no setting for."""
    app.connect("missing-reference", link_to_the_documented_name)
    return {"parallel_read_safe": True}

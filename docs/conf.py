"""Builds the documentation: ``sphinx-build -W --keep-going -b html docs docs/_build/html``."""

from __future__ import annotations

import flask_uow

project = "flask_uow"
author = "the flask_uow authors"
project_copyright = "2026, the flask_uow authors"
version = release = flask_uow.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
nitpicky = False

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "furo"
html_title = "flask_uow"

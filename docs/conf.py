"""How Sphinx builds the documentation: `make docs`. Nothing is fetched from the network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from raspy import __version__  # noqa: E402  after the path to it

project = "RasPy"
author = "The RasPy authors"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "raspy_reference", "sequence"]
exclude_patterns = ["_build", "_ext"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
pygments_style = "default"

html_theme = "furo"
html_title = f"RasPy {__version__}"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False

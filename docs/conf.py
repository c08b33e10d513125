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

extensions = ["sphinx.ext.autodoc", "raspy_layers", "raspy_reference", "sequence"]
exclude_patterns = ["_build", "_ext"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
pygments_style = "default"

html_theme = "furo"
html_title = f"RasPy {__version__}"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False

# For `make pdf`. Of the engines the one that knows all letters of these pages, with fonts of Debian's TeX.
latex_engine = "xelatex"
latex_use_xindy = False
latex_documents = [("index", "raspy.tex", project, author, "manual")]
latex_elements = {
    "papersize": "a4paper",
    "extraclassoptions": "openany,oneside",
    "fontpkg": r"\setmainfont{FreeSerif}\setsansfont{FreeSans}\setmonofont{DejaVu Sans Mono}[Scale=0.8]",
    # What plots on a terminal are drawn with is in none of the fixed fonts; so scaled it is as wide as their letters.
    "preamble": r"\usepackage{newunicodechar}\newfontfamily\plotdots{DejaVu Sans}[Scale=0.658]"
    + "".join(rf"\newunicodechar{{{chr(dots)}}}{{{{\plotdots\symbol{{{dots}}}}}}}" for dots in range(0x2800, 0x2900)),
}
latex_show_urls = "footnote"

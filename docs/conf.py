"""Sphinx's settings for the site. `make docs` builds it."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "site"))

project = "OSLIC"
copyright = "the OSLIC developers"  # noqa: A001 - Sphinx's name
release = version = importlib.metadata.version("oslic")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_reference"]
exclude_patterns = ["site", "charts", "pictures"]
root_doc = "index"

myst_enable_extensions = ["attrs_block", "colon_fence"]
myst_heading_anchors = 4

nitpicky = True
# Types of other packages have no pages here; ours must.
nitpick_ignore_regex = [
    ("py:.*", r"(?!oslic).*"),
    # Internals that signatures name.
    ("py:class", r"oslic\.export\.(rules\.base|symbolic_shapes\.\w+)\..*"),
]

# A word in single backquotes in a docstring is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"OSLIC {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# `make linkcheck`, by hand: it needs a network.
linkcheck_anchors = False
linkcheck_timeout = 20

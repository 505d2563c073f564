"""Sphinx configuration. Code cells run on every build, so an example that fails fails the build."""

import logging
import os
import sys
from pathlib import Path

# The pages show the same output on every machine.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent))

import generated

import jaxbp

project = "jaxbp"
author = "the jaxbp authors"
copyright = author
release = version = jaxbp.__version__

extensions = ["myst_nb"]
exclude_patterns = ["_build", "jupyter_execute", ".jupyter_cache"]
smartquotes = False
highlight_language = "text"

myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 60
nb_merge_streams = True
# Which kernel runs is no news.
logging.getLogger("traitlets").setLevel(logging.WARNING)

html_theme = "furo"
html_title = f"jaxbp {release}"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]


def setup(app):
    """Fill in generated parts, and read every page on every build, since all of them depend on `jaxbp`."""
    app.connect("source-read", generated.fill_in)
    app.connect("env-get-outdated", lambda app, env, added, changed, removed: env.found_docs)
    return {"parallel_read_safe": True}

"""The page's templates, and what is put into them."""

import functools
from importlib.resources import files
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup


def fill(template: str, **content: Any) -> str:
    """A template with its content; text is escaped, whatever it holds."""
    return _environment().get_template(template).render(**content)


def asset(name: str) -> str:
    """A file of this package as text."""
    return files("jaxbp.report.html").joinpath(name).read_text(encoding="utf-8")


def markdown(text: str) -> Markup:
    """Markdown as HTML; HTML within it is text.

    >>> markdown("**ULP** is <b>")
    Markup('<p><strong>ULP</strong> is &lt;b&gt;</p>\\n')
    """
    return Markup(MarkdownIt("commonmark", {"html": False}).render(text))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxbp.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # What `tojson` makes cannot end the script that it stands in.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False, "ensure_ascii": False}
    return environment

"""The application that the commands join; it brings in nothing heavy, since every command waits for it."""

from importlib.metadata import version
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Scheduler = Annotated[str, typer.Option(help="A Dask scheduler, as tcp://host:8786, whose workers do the work.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for another program.")]


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"jaxbp {version('jaxbp')}, jax {version('jax')}, numpy {version('numpy')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say which versions these are.")
    ] = False,
) -> None:
    """Hand-written JAX gradients against autodiff, differences and NumPy: accuracy and speed."""

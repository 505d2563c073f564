"""The application that the commands join, and what they share."""

import dataclasses
from importlib.metadata import version
from typing import Annotated, Any

import typer

from jaxbp.measure.machine import describe_machine, measure_noise

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
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


def machine_facts() -> dict[str, Any]:
    """What this machine is, and how noisy it is now."""
    noise = measured_noise()  # First: it would hear the work of asking for the rest.
    return {**describe_machine(), "noise": noise}


def measured_noise() -> dict[str, Any]:
    """How noisy this machine is now."""
    noise = measure_noise()
    return {**dataclasses.asdict(noise), "verdict": noise.verdict}

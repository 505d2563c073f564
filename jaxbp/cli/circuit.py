"""`jaxbp circuit`."""

from pathlib import Path
from typing import Annotated

import jax
import typer
from rich.text import Text

from jaxbp.check.load import load_function, make_values, wants_x64
from jaxbp.circuit.draw import draw_circuit
from jaxbp.cli.root import Json, app
from jaxbp.errors import ResultsError, UsageError
from jaxbp.terminal import err, out, working


@app.command(context_settings={"ignore_unknown_options": True})
def circuit(
    target: Annotated[str, typer.Argument(help="FILE.py:NAME or package.module:NAME.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(help="Arguments: -2, 0.5, '[1,2,3]', 'i32:[0,2]', or drawn as 'f32[64,128]', 'i32[64]<10'."),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Write the picture to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page, whose gates open, to this file.")] = None,
    stages: Annotated[bool, typer.Option("--stages", help="Print staged backpropagation as Python.")] = False,
    unfolded: Annotated[bool, typer.Option("--open", help="Show what is inside of gates.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the arguments that are drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw a function as a circuit: values, gradients, and how many digits of both are right.

    Plain numbers are float32; the gradient of an output that is no scalar is that of the sum of its entries.
    """
    if (svg or html or as_json) and stages:
        raise UsageError("--stages prints Python and cannot be combined with --svg, --html or --json.")
    specs = values or []
    with jax.enable_x64(wants_x64(specs)), working("circuit") as advance:
        drawn = draw_circuit(load_function(target), *make_values(specs, seed), advance=advance)
        pictures = {svg: drawn.to_svg, html: drawn.to_html}
        for path, picture in pictures.items():
            if path:
                _write(path, picture())
        printed = drawn.to_stages() if stages else ""
    if stages:
        print(printed, end="")
    elif as_json:
        print(drawn.to_json(folded=not unfolded))
    else:
        text = drawn.to_text(folded=not unfolded, coloured=True)
        out.print(Text.from_ansi(text), highlight=False, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror or error}.") from error
    err.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)

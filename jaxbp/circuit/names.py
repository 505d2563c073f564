"""Names from the user's source: the expression that an equation computes, and the variable it is assigned to."""

import ast
import functools
import inspect
import itertools
import keyword
import linecache
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxbp import op as op_module
from jaxbp.jaxprs import JAX

#: Whose lines tell a user nothing.
OURS = (Path(__file__).parent, Path(op_module.__file__))
#: What the printed Python needs for itself.
TAKEN = frozenset(("jax", "jnp", "np", "jaxbp", "gate"))


class Expression(NamedTuple):
    """A piece of the user's source.

    Attributes:
        targets: the variables that it is assigned to, if it is.
        text: the source.
        file: where it stands.
        span: first and last line, first and last column.
    """

    targets: tuple[str, ...]
    text: str
    file: str
    span: tuple[int, int, int, int]

    @property
    def place(self) -> str:
        """`file.py:12`, as a user looks for it; of a notebook the line of the cell."""
        path = Path(self.file)
        return f"{path.name}:{self.span[0]}" if path.is_file() else f"line {self.span[0]}"


def expression_of(eqn: Any) -> Expression | None:
    """The innermost expression of the user's that an equation was traced from; None if it is not known.

    Frames beyond the one that traces the jaxpr belong to whoever calls the traced function.
    """
    traceback = eqn.source_info.traceback
    for code, instruction in zip(*traceback.raw_frames(), strict=True) if traceback else ():
        if code.co_name.startswith("trace_to_jaxpr"):
            return None
        if not any(Path(code.co_filename).is_relative_to(root) for root in (JAX, *OURS)):
            span = _spans(code)[instruction // 2]
            found = _expressions(code.co_filename).get(span)
            return found or (Expression((), "", code.co_filename, span) if span[0] else None)
    return None


@functools.lru_cache(maxsize=256)
def _spans(code: Any) -> list[tuple[int, int, int, int]]:
    """Where each instruction stands in the source: first and last line, first and last column."""
    return [(a or 0, b or 0, c or 0, d or 0) for a, b, c, d in code.co_positions()]


@functools.lru_cache(maxsize=64)
def _expressions(file: str) -> dict[tuple[int, int, int, int], Expression]:
    lines = linecache.getlines(file)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return {}
    # Columns are counted in bytes.
    encoded = [line.encode() for line in lines]
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):
            span = _span(node)
            found[span] = Expression(found[span].targets if span in found else (), _text(encoded, span), file, span)
        for value, targets in _assigned(node):
            span = _span(value)
            found[span] = Expression(targets, _text(encoded, span), file, span)
    return found


def _assigned(node: ast.AST) -> Iterator[tuple[ast.AST, tuple[str, ...]]]:
    """What a statement computes, and the variables that it goes to. `x += y` computes the statement as a whole."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        yield node.value, _targets(node.targets[0])
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield node.value, _targets(node.target)
    elif isinstance(node, ast.AugAssign):
        yield node, _targets(node.target)


def _targets(target: ast.expr) -> tuple[str, ...]:
    parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
    return tuple(part.id for part in parts if isinstance(part, ast.Name)) if _plain(parts) else ()


def _plain(parts: Sequence[ast.expr]) -> bool:
    return all(isinstance(part, ast.Name) for part in parts)


def _span(node: Any) -> tuple[int, int, int, int]:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def _text(lines: list[bytes], span: tuple[int, int, int, int]) -> str:
    first, last, start, end = span
    text = (
        lines[first - 1][start:end]
        if first == last
        else b"".join((lines[first - 1][start:], *lines[first : last - 1], lines[last - 1][:end]))
    )
    return " ".join(text.decode().split())


def argument_names(f: Callable[..., Any], args: tuple[Any, ...]) -> list[str]:
    """The name of each leaf of the arguments: `x`, or `params['w']` for one inside a pytree."""
    try:
        given = inspect.signature(f).bind(*args)
    except (TypeError, ValueError):
        tops = [f"x{i}" for i in range(len(args))]
    else:
        tops = []
        for name, value in given.arguments.items():
            several = given.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            tops += [f"{name}{i}" for i in range(len(value))] if several else [name]
    return [
        top + jax.tree_util.keystr(path)
        for top, arg in zip(tops, args, strict=True)
        for path, _ in jax.tree_util.tree_flatten_with_path(arg)[0]
    ]


class Names:
    """Hands out Python identifiers, each once, and never one that is the gradient `d...` of another."""

    def __init__(self) -> None:
        self.used: set[str] = set(TAKEN)
        self.numbers = itertools.count(1)

    def give(self, wanted: str) -> str:
        """The identifier closest to what is wanted; `t1`, `t2`, ... for no wish at all."""
        base = re.sub(r"\W+", "_", wanted).strip("_")
        if not base or base[0].isdigit():
            base = f"t{next(self.numbers)}" if not base else f"_{base}"
        if keyword.iskeyword(base):
            base += "_"
        candidates = itertools.chain([base], (f"{base}_{i}" for i in itertools.count(2)))
        name = next(n for n in candidates if not self.used & {n, f"d{n}"})
        self.used |= {name, f"d{name}"}
        return name

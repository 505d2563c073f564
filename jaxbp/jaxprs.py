"""Reading a jaxpr: what an equation calls, how a scan's arguments are meant, which line of the user's it comes from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

#: Primitives that do nothing but call a jaxpr.
CALLS = (
    *("jit", "pjit", "closed_call", "core_call", "call", "eval_jaxpr", "checkpoint", "remat", "remat2"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin"),
    "custom_vmap_call",
)
JAX = Path(jax.__file__).parent


def function_source(jaxpr: Any) -> tuple[str, str]:
    """The name of the function that a jaxpr was traced from, and its file and line."""
    name, _, file = str(getattr(jaxpr.debug_info, "func_src_info", "")).partition(" at ")
    return name, file


def is_float(dtype: Any) -> bool:
    """Whether a dtype is that of real floats."""
    return jax.numpy.issubdtype(dtype, np.floating)


def is_inexact(dtype: Any) -> bool:
    """Whether a dtype is that of floats, real or complex."""
    return jax.numpy.issubdtype(dtype, np.inexact)


def closed_jaxpr(jaxpr: Any) -> ClosedJaxpr:
    """JAX's versions keep closed and open jaxprs in the same parameters."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def called_jaxpr(eqn: Any) -> ClosedJaxpr:
    """What a call calls; the primal, for functions with custom derivatives."""
    return closed_jaxpr(next(eqn.params[k] for k in ("call_jaxpr", "jaxpr", "fun_jaxpr", "call") if k in eqn.params))


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr, and of those in their parameters: of calls, branches and loops."""
    for eqn in closed_jaxpr(jaxpr).jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)):
            if isinstance(inner, Jaxpr | ClosedJaxpr):
                yield from equations(inner)


def scan_parts(eqn: Any, values: Sequence[Any]) -> tuple[int, int]:
    """How many constants and how many carried values a scan has; from JAX 0.12 on a tree says it."""
    if "ft_in" in eqn.params:
        consts, carry, _ = (len(list(part)) for part in eqn.params["ft_in"].update(values).unpack())
        return consts, carry
    return eqn.params["num_consts"], eqn.params["num_carry"]


def place(eqn: Any, ours: Sequence[Path] = (), tracer: Path | None = None) -> str:
    """The user's line that an equation comes from, as `file.py:12 (function)`; empty if it is not known.

    Lines of JAX tell a user nothing, nor do those of the files or folders in `ours`, nor the file `tracer`, which had
    the function traced, and what called it.
    """
    traceback = getattr(eqn.source_info, "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        path = Path(frame.file_name)
        if path == tracer:
            break
        if not any(path.is_relative_to(root) for root in (JAX, *ours)):
            line = getattr(frame, "line_num", getattr(frame, "start_line", "?"))
            return f"{frame.file_name}:{line} ({frame.function_name})"
    return ""

"""What the command line names: a function in a file or a module, and arguments by dtype and shape."""

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbp.check.trials import declared_domain, require_intervals, within
from jaxbp.errors import UsageError, unknown_name

DTYPES = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u32": "uint32",
    "u8": "uint8",
    "bool": "bool",
}
#: `f32[64,128]`, and for whole numbers below a limit `i32[64]<10`.
SPEC = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<shape>(?: *\d+ *,)* *(?:\d+ *)?)\](?:<(?P<limit>\d+))?")
#: A number or a list of them, with its dtype before a colon.
WRITTEN = re.compile(r"(?:(?P<dtype>[a-z]+\d*):)?(?P<value>\[.*\]|[-+.\d].*)", re.DOTALL)
WORDS = {"true": True, "false": False, "none": None}


def load_function(target: str) -> Callable[..., Any]:
    """The function that `FILE.py:NAME` or `package.module:NAME` names; `NAME` may be dotted."""
    where, colon, name = target.rpartition(":")
    if not colon or not name:
        raise UsageError(f"{target!r} names no function; give FILE.py:NAME or package.module:NAME.")
    found: Any = _module(where)
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")] if hasattr(found, "__dict__") else []
            raise unknown_name(f"function in {where}", part, public)
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{target} is of type {type(found).__name__}, not a function.")
    return found


def _module(where: str) -> Any:
    path = Path(where)
    try:
        if path.suffix != ".py":
            return importlib.import_module(where)
        if not path.is_file():
            raise UsageError(f"There is no file {where}.")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent.resolve()))  # It may import its neighbours.
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.pop(0)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def wants_x64(specs: Sequence[str]) -> bool:
    """Whether some argument takes 64 bits, which JAX has to be told of beforehand."""
    return any(re.match(r"[a-z]64[\[:]", spec.strip()) for spec in specs)


def make_arguments(
    f: Callable[..., Any], specs: Sequence[str], seed: int, domain: Mapping[str, tuple[float, float]]
) -> list[Any]:
    """Arguments of a function that specs say, drawn from a seed, where the function is defined.

    `domain` has the limits of some, as those of `args[0]`; before those that an op declares.
    """
    require_intervals(domain)
    limits = {**declared_domain(f), **domain}
    rng = np.random.default_rng(seed)
    return [make_argument(spec, rng, limits.get(f"args[{i}]")) for i, spec in enumerate(specs)]


def make_values(texts: Sequence[str], seed: int) -> list[Any]:
    """Arguments as written, or drawn from a seed: see `make_value` and `make_argument`."""
    rng = np.random.default_rng(seed)
    return [make_value(text, rng) for text in texts]


def make_value(text: str, rng: np.random.Generator) -> Any:
    """A number or a list of numbers as it is written, in float32 or in the dtype before a colon; or as `make_argument`.

    >>> rng = np.random.default_rng(0)
    >>> make_value("[1, -2]", rng), make_value("i32:[0, 2]", rng)
    (array([ 1., -2.], dtype=float32), array([0, 2], dtype=int32))
    """
    written = WRITTEN.fullmatch(text.strip())
    if not written:
        return make_argument(text, rng)
    name = written["dtype"] or "f32"
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    try:
        given = np.asarray(ast.literal_eval(written["value"]))
        value = given.astype(jnp.dtype(DTYPES[name]))
        if value.dtype.kind in "iub" and not np.array_equal(value, given):
            raise ValueError(f"{DTYPES[name]} cannot hold it")
        return value
    except (ValueError, SyntaxError, TypeError) as error:
        raise UsageError(
            f"{text!r} is no argument; write a number, a list of numbers such as [1, 2.5] or i32:[0, 2], or a dtype "
            f"and a shape such as f32[64,128]. ({error})"
        ) from None


def make_argument(spec: str, rng: np.random.Generator, limits: tuple[float, float] | None = None) -> Any:
    """An argument as its spec says: `f32[64,128]` normal numbers, `i32[64]<10` whole ones, `bool[3]`, or a number.

    Floats that are drawn lie within `limits`.

    >>> make_argument("i32[2,3]<10", np.random.default_rng(0)).shape, make_argument("0.5", np.random.default_rng(0))
    ((2, 3), 0.5)
    """
    text = spec.strip()
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    match = SPEC.fullmatch(text)
    if not match:
        raise UsageError(
            f"{spec!r} is no argument; give a dtype and a shape such as 'f32[64,128]' or 'i32[64]<10', or a number."
        )
    if match["dtype"] not in DTYPES:
        raise unknown_name("dtype", match["dtype"], DTYPES)
    dtype = jnp.dtype(DTYPES[match["dtype"]])
    shape = tuple(int(n) for n in match["shape"].split(",") if n.strip())
    if match["limit"] and not jnp.issubdtype(dtype, jnp.integer):
        raise UsageError(f"{spec!r} has a limit, which is for whole numbers; use --domain for floats.")
    if match["limit"] and not int(match["limit"]):
        raise UsageError(f"{spec!r} leaves no whole number to draw: they are from 0 on and below the limit.")
    try:
        if jnp.issubdtype(dtype, jnp.bool_):
            return rng.random(shape) < 0.5
        if jnp.issubdtype(dtype, jnp.integer):
            return np.asarray(rng.integers(0, int(match["limit"] or 2), shape)).astype(dtype)
        return within(np.asarray(rng.normal(size=shape)).astype(dtype), limits)
    except (MemoryError, ValueError) as error:
        raise UsageError(f"{spec!r} cannot be drawn here: {error}") from None

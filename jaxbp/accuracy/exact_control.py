"""The interpreter of a jaxpr in balls, and the primitives that hold jaxprs: calls, cond, while, scan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jaxbp.accuracy.exact_balls import MissingRule, Undecided, balls
from jaxbp.accuracy.exact_elementwise import ELEMENTWISE, Rule
from jaxbp.accuracy.exact_structure import STRUCTURE, on_integers
from jaxbp.accuracy.exact_windows import WINDOWS
from jaxbp.jaxprs import CALLS, called_jaxpr, closed_jaxpr, is_float, place, scan_parts

#: Whose lines tell a user nothing.
OURS = tuple(Path(__file__).parent.glob("exact*.py"))
#: Arrays of floats are object arrays of balls, all others NumPy arrays of their own dtype.
Values = list[np.ndarray]


def evaluate(closed: ClosedJaxpr, args: Sequence[np.ndarray]) -> Values:
    """The outputs of a jaxpr in balls of the current precision.

    Raises:
        Undecided: a comparison needs more precision.
        MissingRule: there is no rule for a primitive.
    """
    jaxpr = closed.jaxpr
    env: dict[Any, np.ndarray] = dict(zip(jaxpr.invars, args, strict=True))
    env.update(zip(jaxpr.constvars, map(as_value, closed.consts), strict=True))

    def read(atom: Any) -> np.ndarray:
        return constant(atom) if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        try:
            out = rule_of(eqn)(eqn, *map(read, eqn.invars))
        except (Undecided, MissingRule) as error:
            # The innermost line that is the user's; a function of JAX called directly has none of its own.
            error.where = error.where or place(eqn, OURS)
            raise
        env.update(zip(eqn.outvars, out if isinstance(out, list) else [out], strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def constant(literal: Any) -> np.ndarray:
    return as_value(literal.val, literal.aval.dtype)


def as_value(x: Any, dtype: Any = None) -> np.ndarray:
    """A constant as a value: floats become balls, exactly."""
    if jax.numpy.issubdtype(getattr(x, "dtype", np.float64), jax.dtypes.extended):
        return x
    array = np.asarray(x, dtype)
    return balls(array) if is_float(array.dtype) else array


def rule_of(eqn: Any) -> Rule:
    """The rule of an equation; JAX itself evaluates what has no floats in it."""
    name = eqn.primitive.name
    if name in CONTROL:
        return CONTROL[name]
    dtypes = [atom.aval.dtype for atom in (*eqn.invars, *eqn.outvars) if hasattr(atom.aval, "dtype")]
    if any(jax.numpy.issubdtype(d, np.complexfloating) for d in dtypes):
        raise MissingRule(f"{name} of complex numbers")
    if not any(is_float(d) for d in dtypes):
        return on_integers
    if name not in RULES:
        raise MissingRule(name)
    return RULES[name]


def call(eqn: Any, *values: np.ndarray) -> Values:
    return evaluate(called_jaxpr(eqn), values)


def cond(eqn: Any, index: np.ndarray, *values: np.ndarray) -> Values:
    branches = eqn.params["branches"]
    return evaluate(branches[min(max(int(index), 0), len(branches) - 1)], values)


def while_(eqn: Any, *values: np.ndarray) -> Values:
    n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test, body = closed_jaxpr(eqn.params["cond_jaxpr"]), closed_jaxpr(eqn.params["body_jaxpr"])
    for_test, for_body = values[:n_cond], values[n_cond : n_cond + n_body]
    carry: Sequence[np.ndarray] = values[n_cond + n_body :]
    while evaluate(test, (*for_test, *carry))[0]:
        carry = evaluate(body, (*for_body, *carry))
    return list(carry)


def scan(eqn: Any, *values: np.ndarray) -> Values:
    body, length = closed_jaxpr(eqn.params["jaxpr"]), eqn.params["length"]
    n_consts, n_carry = scan_parts(eqn, values)
    consts, rows = values[:n_consts], values[n_consts + n_carry :]
    carry: Sequence[np.ndarray] = values[n_consts : n_consts + n_carry]
    stacked = [np.empty(v.aval.shape, _storage(v.aval.dtype)) for v in eqn.outvars[n_carry:]]
    for i in reversed(range(length)) if eqn.params["reverse"] else range(length):
        out = evaluate(body, (*consts, *carry, *(row[i, ...] for row in rows)))
        carry = out[:n_carry]
        for stack, y in zip(stacked, out[n_carry:], strict=True):
            stack[i] = y[()]
    return [*carry, *stacked]


def _storage(dtype: Any) -> Any:
    return object if is_float(dtype) else dtype


def nothing(eqn: Any, *values: np.ndarray) -> Values:
    return []


CONTROL: dict[str, Rule] = {
    "cond": cond,
    "while": while_,
    "scan": scan,
    **dict.fromkeys(CALLS, call),
    **dict.fromkeys(("debug_callback", "debug_print"), nothing),
}
RULES: dict[str, Rule] = ELEMENTWISE | STRUCTURE | WINDOWS | CONTROL

"""Other checkers of gradients, each asked what it says of a function: JAX's `check_grads` and torch's `gradcheck`."""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from jaxbp.errors import import_extra

#: What a checker may say of a function.
RIGHT, WRONG = "right", "wrong"
#: It could not say, because JAX itself cannot differentiate the function: its user learns that something is wrong.
RAISES = "JAX raises"
#: It could not say for a reason of its own.
UNABLE = "cannot be run"
#: More calls than gradcheck is given time for: it calls the function twice an entry of the arguments, and the backward
#: pass twice an entry of the results.
MOST_CALLS = 10_000


class CannotBeRunError(ValueError):
    """A checker cannot take a function; the text says why."""


@dataclasses.dataclass(frozen=True)
class Rival:
    """A checker, in one setting.

    Attributes:
        about: what is called, and how.
        check: `check(f, args)` raises if f's gradients look wrong; f takes floats and returns a tuple of them.
        failure: the name of the error that it raises then.
        wide: whether it is given float64 for every float.
    """

    about: str
    check: Callable[[Callable[..., Any], tuple[Any, ...]], None]
    failure: str
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a rival says of a function: `RIGHT`, `WRONG`, `RAISES` or `UNABLE`, and its words where it raised."""

    verdict: str
    said: str = ""


def ask(name: str, f: Callable[..., Any], args: tuple[Any, ...], *, x64: bool = False) -> Verdict:
    """What a rival says of a function at its arguments.

    As a sensible user would, it is given the floats alone: other arguments are closed over, other results left out.

    >>> ask("check_grads", jnp.sin, (1.0,)).verdict
    'right'
    """
    rival = RIVALS[name]
    with jax.enable_x64(x64 or rival.wide):
        own, floats = floats_alone(f, args, wide=rival.wide)
        try:
            rival.check(own, floats)
        except Exception as error:
            said = _said(error)
            if type(error).__name__ == rival.failure:
                return Verdict(WRONG, said)
            if isinstance(error, CannotBeRunError) or _differentiable(own, floats):
                return Verdict(UNABLE, said)
            return Verdict(RAISES, said)
    return Verdict(RIGHT)


def floats_alone(
    f: Callable[..., Any], args: tuple[Any, ...], *, wide: bool = False
) -> tuple[Callable[..., Any], tuple[np.ndarray, ...]]:
    """f as a function of the floats among its arguments, with a tuple of floats as its result; and the floats.

    With `wide` they are float64, or complex128; that takes `jax.enable_x64`.
    """
    leaves, treedef = jax.tree.flatten(args)
    # JAX's own arrays, as a rule gets them: NumPy's have no `.at`.
    leaves = [jnp.asarray(x) for x in leaves]
    places = [i for i, x in enumerate(leaves) if _is_float(x)]

    def own(*xs: Any) -> tuple[Any, ...]:
        inputs = list(leaves)
        for i, x in zip(places, xs, strict=True):
            inputs[i] = jnp.asarray(x)
        outs = jax.tree.leaves(f(*jax.tree.unflatten(treedef, inputs)))
        return tuple(y for y in outs if _is_float(y))

    return own, tuple(_widened(leaves[i]) if wide else np.asarray(leaves[i]) for i in places)


def available() -> tuple[str, ...]:
    """The rivals whose packages are installed."""
    return tuple(name for name in RIVALS if name != "gradcheck" or importlib.util.find_spec("torch"))


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _widened(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.complex128 if jnp.issubdtype(x.dtype, jnp.complexfloating) else np.float64)


def _differentiable(own: Callable[..., Any], floats: Sequence[Any]) -> bool:
    """Whether JAX can differentiate the function at all."""
    with contextlib.suppress(Exception):
        y, pull = jax.vjp(own, *floats)
        pull(jax.tree.map(jnp.ones_like, y))
        return True
    return False


def _said(error: Exception) -> str:
    """The sentence of an error that says most: of NumPy's, how much is off."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    telling = next((line for line in lines if line.startswith("Max absolute difference")), lines[0])
    return f"{type(error).__name__}: {telling}"[:300]


def _by_jax(**options: Any) -> Callable[[Callable[..., Any], tuple[Any, ...]], None]:
    return lambda f, args: check_grads(f, args, **options)


def _by_torch(f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """`torch.autograd.gradcheck` of a twin in torch, whose forward and backward pass JAX computes."""
    torch = import_extra("torch", "torch")
    outs = jax.eval_shape(f, *args)
    calls = 2 * sum(x.size for x in (*args, *outs))
    if calls > MOST_CALLS:
        raise CannotBeRunError(f"It would take {calls:,} calls, more than the {MOST_CALLS:,} that it is given.")

    def to_torch(x: Any) -> Any:
        x = np.array(x)
        # NumPy's bfloat16 means nothing to torch.
        return torch.from_numpy(x.astype(np.float32)).bfloat16() if x.dtype == jnp.bfloat16 else torch.from_numpy(x)

    def to_jax(x: Any) -> Any:
        # A copy, because torch changes its arguments in place to take differences.
        return jnp.asarray(np.array(x.detach().numpy()))

    class Twin(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: Any) -> Any:
            ys, ctx.pull = jax.vjp(f, *map(to_jax, xs))
            return tuple(map(to_torch, ys))

        @staticmethod
        def backward(ctx: Any, *cts: Any) -> Any:
            # torch's gradient of a complex argument is the conjugate of JAX's.
            grads = ctx.pull(tuple(jnp.conj(to_jax(ct)) for ct in cts))
            return tuple(to_torch(jnp.conj(g)) for g in grads)

    torch.autograd.gradcheck(Twin.apply, tuple(to_torch(x).requires_grad_() for x in args))


RIVALS = MappingProxyType(
    {
        "check_grads": Rival("jax.test_util.check_grads, order=1", _by_jax(order=1), "AssertionError"),
        "check_grads rev": Rival(
            "the same with modes=['rev'], in the function's own dtypes",
            _by_jax(order=1, modes=["rev"]),
            "AssertionError",
        ),
        "check_grads rev float64": Rival(
            "the same with every float in float64", _by_jax(order=1, modes=["rev"]), "AssertionError", wide=True
        ),
        "gradcheck": Rival(
            "torch.autograd.gradcheck with its defaults, in float64, of a twin whose forward and backward pass call "
            f"the function's; not where it would take more than {MOST_CALLS:,} calls of these",
            _by_torch,
            "GradcheckError",
            wide=True,
        ),
    }
)

"""What a VJP should be: the primal's derivative in float64, and how far rounding may take one from it."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxbp.accuracy.exact_primal import trace, vjp, vjp_by_columns
from jaxbp.check.arithmetic import evaluate
from jaxbp.check.rounding import LINEAR_ALGEBRA, SUMS, Rounding, narrows, unit
from jaxbp.check.subject import PLAIN, Subject, summary
from jaxbp.errors import UsageError
from jaxbp.jaxprs import equations, is_float

#: Noisy evaluations an entry's bound is read from.
NOISY = 10
#: Inputs beside the given ones, off by a unit roundoff, that tell how well conditioned an entry is.
BESIDE = 6
#: Entries of the arguments up to which a Jacobian is computed column by column.
COLUMNS = 256
#: Primitives that add up, or solve.
MIXING = (*SUMS, *LINEAR_ALGEBRA, "fft", "reduce_prod", "cumprod", "cumlogsumexp", "scan", "while")
#: Evaluations in float64 are short, and take longer to optimize than to run.
UNOPTIMIZED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def in_float64(function: Callable[..., Any]) -> Callable[..., list[np.ndarray]]:
    """A function of flat arrays compiled with floats in float64, on the CPU, whatever the default is."""
    compiled = jax.jit(function, compiler_options=UNOPTIMIZED)
    cpu = jax.devices("cpu")[0]

    def run(*xs: Any) -> list[np.ndarray]:
        with jax.enable_x64(True), jax.default_device(cpu), np.errstate(all="ignore"):
            widened = [x.astype(np.float64) if is_float(x.dtype) else x for x in map(np.asarray, xs)]
            try:
                return [np.asarray(x) for x in compiled(*widened)]
            except UsageError:
                raise
            except Exception as error:  # Whatever it is, it is no fault of the rule.
                raise UsageError(f"The function cannot be evaluated in float64: {summary(error)}") from error

    return run


def _differentiated(primal: ClosedJaxpr, subject: Subject) -> ClosedJaxpr:
    """The jaxpr of value and VJP, column by column where only forward mode knows a rule, as for while loops."""
    try:
        return vjp(primal)
    except Exception as error:  # Whatever a primitive's own rules raise.
        entries = sum(aval.size for aval in primal.in_avals if is_float(aval.dtype))
        if entries <= COLUMNS:
            with contextlib.suppress(Exception):
                return vjp_by_columns(primal)
        who = "The function" if subject.stock is None else "stock"
        advice = "give stock, a function" if subject.stock is None else "give one"
        raise UsageError(
            f"{who} without its custom rules cannot be differentiated by JAX, so there is nothing to compare with; "
            f"{advice} of plain JAX that computes the same. {summary(error)}"
        ) from error


def _with_idle_rule(subject: Subject) -> Callable[..., list[Any]]:
    """A function with a rule that computes nothing, which so runs wherever a plain call does."""

    def fwd(*leaves: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return subject.flat(*leaves), leaves

    def bwd(leaves: tuple[Any, ...], cts: list[Any]) -> tuple[Any, ...]:
        return tuple(jnp.zeros_like(x) if is_float(x.dtype) else None for x in leaves)

    f = jax.custom_vjp(subject.flat)
    f.defvjp(fwd, bwd)
    return f


class Reference:
    """The truth about a subject, or about its stock if it has one, for whatever arguments of its shapes."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        structs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in subject.leaves]
        # Traced here, where its dtypes are the function's own: with x64 on `jnp.zeros(3)` is another function.
        try:
            self.primal: ClosedJaxpr = trace(subject.meant.flat, structs)[0]
        except Exception as error:  # It could be traced with its rules, so that this is about taking them out.
            raise UsageError(f"The function's custom rules cannot be taken out of it: {summary(error)}") from error
        #: The jaxpr of value and VJP of the primal, all custom rules stripped, in the function's own dtypes.
        self.program: ClosedJaxpr = _differentiated(self.primal, subject)

    @functools.cached_property
    def truth(self) -> Callable[..., list[np.ndarray]]:
        """`truth(*leaves, *cts)`: values and cotangents of the program in float64."""
        return in_float64(lambda *xs: evaluate(self.program, xs))

    @functools.cached_property
    def value(self) -> Callable[..., list[np.ndarray]]:
        """`value(*leaves)`: the primal in float64."""
        return in_float64(lambda *xs: evaluate(self.primal, xs))

    @functools.cached_property
    def noisy(self) -> Callable[..., list[np.ndarray]]:
        """The truth with rounding errors of the program's dtypes, `NOISY` times along a new first axis."""

        def one(phase: jax.Array, scatter: jax.Array, xs: Any) -> list[Any]:
            return evaluate(self.program, xs, Rounding(phase, scatter))

        def all_phases(*xs: Any) -> list[Any]:
            # The last two are biased, upwards and downwards.
            phases = jnp.asarray([*np.random.default_rng(5).random(NOISY - 2), 0.0, 0.5])
            scatter = jnp.asarray([1.0] * (NOISY - 2) + [0.0, 0.0])
            try:
                return jax.vmap(one, in_axes=(0, 0, None))(phases, scatter, xs)
            except NotImplementedError:  # Not everything can be batched.
                return jax.lax.map(lambda both: one(both[0], both[1], xs), (phases, scatter))

        return in_float64(all_phases)

    def formula(self, xs: tuple[np.ndarray, ...]) -> list[np.ndarray] | None:
        """Value and cotangents by the function's own rules in float64.

        None where that tells nothing of its rounding: of rules that narrow their floats, or that float64 cannot run.
        """
        if self._formula is None:
            return None
        try:
            return self._formula(*xs)
        except UsageError:
            return None

    @functools.cached_property
    def _formula(self) -> Callable[..., list[np.ndarray]] | None:
        leaves = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in self.subject.leaves]
        cts = [self.subject.shapes[i] for i in self.subject.float_outs]
        program = jax.make_jaxpr(lambda *xs: jax.tree.leaves(self.subject.value_and_vjp(*xs)))(*leaves, *cts)
        return None if any(map(narrows, equations(program))) else in_float64(lambda *xs: evaluate(program, xs))

    @functools.cached_property
    def mixes(self) -> bool:
        """Whether entries of a cotangent are made of several others', so that rounding goes by the largest of them."""
        return any(eqn.primitive.name in MIXING for eqn in equations(self.primal))

    @functools.cached_property
    def stops_gradients(self) -> bool:
        """Whether the derivative is meant to differ from the slope of the values."""
        return "stop_gradient" in str(self.primal)

    @functools.cached_property
    def converges(self) -> bool:
        """Whether a loop goes on until its floats say so: results are as good as its tolerance, and no better."""
        loops = (eqn for eqn in equations(self.primal) if eqn.primitive.name == "while")
        tests = (test for loop in loops for test in equations(loop.params["cond_jaxpr"]))
        return any(hasattr(x.aval, "dtype") and is_float(x.aval.dtype) for test in tests for x in test.invars)

    @property
    def stripped(self) -> Subject:
        """The function without its custom rules, in its own dtypes; one that has a stock, with a rule that is idle."""
        n = len(self.subject.leaves)
        tree, codecs = jax.tree.structure((0,) * n), (PLAIN,) * n
        f = jaxpr_as_fun(self.primal) if self.subject.stock is None else _with_idle_rule(self.subject)
        return dataclasses.replace(self.subject, f=f, codecs=codecs, treedef=tree)

    def conditioning(self, xs: tuple[np.ndarray, ...], seed: int) -> list[np.ndarray]:
        """How far each result moves when each input and cotangent moves by a unit roundoff, at most of `BESIDE` draws.

        A backward-stable evaluation is off by no more than a few times that.
        """
        rng = np.random.default_rng(seed)
        here = [x.astype(np.float64) for x in self.truth(*xs)]
        spread = [np.zeros(x.shape) for x in here]
        with np.errstate(all="ignore"):
            for _ in range(BESIDE):
                moved = [self._moved(x, rng) for x in xs]
                for s, a, b in zip(spread, self.truth(*moved), here, strict=True):
                    np.maximum(s, np.where(np.isnan(a), np.inf, np.abs(a - b)), out=s)
        return spread

    @staticmethod
    def _moved(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not is_float(x.dtype):
            return x
        return x.astype(np.float64) * (1 + unit(x.dtype) * rng.choice([-1.0, 1.0], x.shape))

    def own(self, xs: tuple[Any, ...]) -> list[np.ndarray]:
        """The program in its own dtypes, as autodiff of the primal would compute it."""
        return [np.asarray(x) for x in self._own(*xs)]

    def runs(self, xs: tuple[Any, ...]) -> bool:
        """Whether the function can be run at all, and its derivative where it is its own stock."""
        try:
            if self.subject.stock is not None:
                jax.block_until_ready(self.subject.plain(*xs[: len(self.subject.leaves)]))
            self.own(xs)
        except Exception:  # Whatever it is that does not run there.
            return False
        return True

    @functools.cached_property
    def _own(self) -> Callable[..., list[Any]]:
        return jax.jit(jaxpr_as_fun(self.program))

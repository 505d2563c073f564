"""What an op declares, and the `jax.custom_vjp` functions that are built from it.

An op is declared once, in one file under `jaxbp/ops/`; tests, benchmarks, documentation and reports read that
declaration.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.cases import Case, growth_cases, large_case
from jaxbp.declaration import Domain, Flops, Kink, Rule, Shapes, shown
from jaxbp.errors import unknown_name
from jaxbp.fusion import in_one_piece
from jaxbp.promotion import in_float32, is_inexact, vary_alike

#: By the name that a rule's function has in a jaxpr: the op, and the function that is meant, which `exact_vjp` puts in
#: its place.
MEANT: dict[str, tuple["Op", Callable[..., Any]]] = {}


def _registered(op: "Op", options: Mapping[str, Any]) -> str:
    """The name of an op's functions with these options; another op of the same name gets a number."""
    settings = ", ".join(f"{name}={value!r}" for name, value in options.items())
    plain = f"{op.name}({settings})" if settings else op.name
    names = itertools.chain([plain], (f"{plain} {i}" for i in itertools.count(2)))
    name = next(name for name in names if name not in MEANT or MEANT[name][0] is op)
    MEANT[name] = (op, functools.partial(op.exact, **options))
    return name


class BoundRule:
    """An op under one of its rules: call it like the op itself."""

    def __init__(self, op: "Op", rule: Rule) -> None:
        self.op = op
        self.rule = rule
        self.name = rule.name
        self.fwd = rule.fwd
        self.bwd = rule.bwd
        self.__doc__ = f"{op.name} under the rule {rule.name!r}. {rule.note}"
        self.function = functools.cache(self._function)

    def __repr__(self) -> str:
        return f"jaxbp.{self.op.name}.rules[{self.name!r}]"

    def _function(self, **options: Any) -> Callable[..., Any]:
        """The jitted `jax.custom_vjp` function of the arguments alone, with the options fixed."""
        fwd = functools.partial(self.fwd, **options)
        bwd = functools.partial(self.bwd, **options)
        if self.op.elementwise:
            fwd, bwd = in_float32(*in_one_piece(fwd, bwd))

        def primal(*args: jax.Array) -> jax.Array:
            return fwd(*args)[0] if self.rule.value is None else self.rule.value(*args, **options)

        def pullback(res: Any, ct: jax.Array) -> tuple[Any, ...]:
            # What was a Python number in the call comes back as a number, which has no shape or dtype.
            return bwd(jax.tree.map(jnp.asarray, res), jnp.asarray(ct))

        primal.__name__ = _registered(self.op, options)
        function = jax.custom_vjp(primal)
        # Compiled for callers who have no jit of their own; inlined, so that one sees the arithmetic and not a call.
        function.defvjp(fwd, jax.jit(pullback, inline=True))
        return jax.jit(function, inline=True)

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        arrays, options = self.op.bind(*args, **kwargs)
        arrays = vary_alike(self.op.promote(arrays, options))
        try:
            return self.function(**options)(*arrays)
        except (TypeError, ValueError):
            self.op.output(arrays, options)  # Says in a sentence what does not fit, if that is what went wrong.
            raise

    def value_and_vjp(self, args: tuple[Any, ...], ct: Any, **options: Any) -> tuple[Any, tuple[Any, ...]]:
        """`Op.value_and_vjp` under this rule."""
        return self.op.value_and_vjp(args, ct, engine=f"rule:{self.name}", **options)


class _Rules(dict[str, BoundRule]):
    """The rules of an op by their names; asked for one that is not there, it offers the closest ones."""

    def __init__(self, op: "Op", rules: tuple[Rule, ...]) -> None:
        super().__init__((rule.name, BoundRule(op, rule)) for rule in rules)
        self.op = op

    def __missing__(self, name: str) -> NoReturn:
        raise unknown_name(f"rule of {self.op.name}", name, self)


def _is_axis(value: Any) -> bool:
    """Whether it is what NumPy takes as axis. JAX looks for a name among the axes of a mesh."""
    axes = value if isinstance(value, tuple) else () if value is None else (value,)
    return all(isinstance(axis, int | np.integer) for axis in axes)


class Op:
    """A differentiable function with hand-written gradient; an object you call.

    Attributes:
        name: its name in `jaxbp` and on the command line.
        summary: what it computes and its shapes, in a few sentences.
        formula: value and VJP as text.
        rules: by name, the op under each of its rules; the first is the default. Declared as a tuple of `Rule`.
        stock: what a user would call otherwise; the engine `autodiff` differentiates it.
        reference: the value in pure NumPy, in the precision of its arguments (float64 as the yardstick).
        reference_vjp: `reference_vjp(ct, *args) -> cotangents` in pure NumPy, likewise.
        reference_both: `reference_both(ct, *args) -> (value, *cotangents)`, the two above in one pass, where apart they
            would make a sweep over every float far longer.
        cases: the named argument sets of tests and benchmarks.
        growth: the sizes at which the growth of its cost is measured; from case `small` towards `memory` if not given.
        flops: analytic operations, as `Flops` per entry of the output (elementwise ops) or a function of shapes.
        terms: for an op that is a sum of products of its arguments, given their shapes: how many roundings an entry of
            the value, and of each cotangent, goes through. Its error is judged by the a-priori bound that follows.
        integers: the names of the arguments that are integers or booleans by what they mean, as labels and conditions:
            they are never converted to a floating dtype and have no gradient; a rule's `bwd` returns None for them.
        elementwise: the output's shape is the broadcast shape, entries depend on their own inputs alone.
        domain: by argument name, where it may lie if not everywhere.
        kinks: the points without derivative, with the stated conventions.
        hard: points that tests and the census of float64 look at closely besides the usual ones: where a rule changes
            its formula, where a derivative crosses zero, where a result saturates, overflows or vanishes.
        exact: the function that is meant, for `exact_vjp`, where `stock` rounds its constants; `stock` if not given.
        variants: the settings of its options that tests and the census cover, the defaults first.
        torch: given the torch module, what a torch user would call, with the op's options as keywords; None where there
            is no such function.
        example: a doctest.
        source: where the formula and the convention come from.
        version: raised whenever rules, cases or reference change; reports compare equal versions only.
    """

    #: How `value_and_vjp` finds an engine; set by `jaxbp.engines`, since imports point upwards only.
    jitted_engine: ClassVar[Callable[..., Callable[..., Any]]]

    def __init__(
        self,
        *,
        name: str,
        summary: str,
        formula: str,
        rules: tuple[Rule, ...],
        stock: Callable[..., Any],
        reference: Callable[..., Any],
        reference_vjp: Callable[..., tuple[Any, ...]],
        cases: tuple[Case, ...],
        flops: Flops | Callable[[Shapes], Flops],
        source: str,
        example: str,
        terms: Callable[[Shapes], tuple[int, ...]] | None = None,
        integers: tuple[str, ...] = (),
        elementwise: bool = False,
        domain: Mapping[str, Domain] = MappingProxyType({}),
        kinks: tuple[Kink, ...] = (),
        hard: tuple[float, ...] = (),
        reference_both: Callable[..., tuple[Any, ...]] | None = None,
        exact: Callable[..., Any] | None = None,
        variants: tuple[Mapping[str, Any], ...] = (MappingProxyType({}),),
        torch: Callable[[Any], Callable[..., Any]] | None = None,
        growth: tuple[Case, ...] | None = None,
        version: int = 1,
    ) -> None:
        if not rules:
            raise ValueError(f"The op {name} needs at least one rule: rules=(Rule(name, fwd, bwd),).")
        if elementwise and any(rule.value for rule in rules):
            raise ValueError(f"The op {name} is elementwise: the value of its rules is computed by their `fwd` alone.")
        if len({rule.name for rule in rules}) < len(rules):
            raise ValueError(f"The op {name} has two rules of one name: {', '.join(rule.name for rule in rules)}.")
        self.name = name
        self.summary = summary
        self.formula = formula
        self.rules: Mapping[str, BoundRule] = MappingProxyType(_Rules(self, rules))
        self.stock = stock
        self.reference = reference
        self.reference_vjp = reference_vjp
        self.reference_both = reference_both
        self.cases = cases
        self.growth = growth_cases(cases) if growth is None else growth
        self.large = large_case(cases)
        self.flops = flops
        self.source = source
        self.example = example
        self.terms = terms
        self.integers = integers
        self.elementwise = elementwise
        self.domain = domain
        self.kinks = kinks
        self.hard = hard
        self.exact = exact or stock
        self.variants = variants
        self.torch = torch
        self.version = version
        self.__name__ = name
        self.__module__ = "jaxbp"
        self.__signature__ = inspect.signature(rules[0].fwd)
        self.__doc__ = "\n\n".join(self._sections())

    def __repr__(self) -> str:
        return f"jaxbp.{self.name}"

    def __reduce__(self) -> str:
        # Like a function: pickled by name, found again as `jaxbp.<name>`; copies are the op itself.
        return self.name

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the array arguments, in order."""
        return tuple(self._parameters(inspect.Parameter.POSITIONAL_OR_KEYWORD))

    @property
    def default_rule(self) -> BoundRule:
        """The op under its first rule."""
        return next(iter(self.rules.values()))

    def case(self, name: str) -> Case:
        """The case of that name, or an error that offers the closest ones."""
        cases = (*self.cases, *self.growth, *self.large)
        for case in cases:
            if case.name == name:
                return case
        raise unknown_name(f"case of {self.name}", name, [case.name for case in cases])

    def replace(self, **changes: Any) -> "Op":
        """A copy of the declaration with some attributes changed; `rules` is a tuple of `Rule` here."""
        declared = {name: getattr(self, name) for name in inspect.signature(Op).parameters}
        declared["rules"] = tuple(bound.rule for bound in self.rules.values())
        return Op(**(declared | changes))

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        return self.default_rule(*args, **kwargs)

    def value_and_vjp(
        self, args: tuple[Any, ...], ct: Any, *, engine: str | None = None, **options: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """The value and the cotangents of all arguments, jitted.

        Args:
            args: the op's array arguments.
            ct: the cotangent of the output: its shape and dtype.
            engine: `rule:<name>`, `autodiff`, `forward_difference`, `central_difference`, `numpy`, `torch`;
                the default rule if None.
            **options: the op's options, such as `precision` of matmul.

        Returns:
            `(y, cts)`; `cts` is a tuple with one cotangent an argument, None for an argument of an integer or
            boolean dtype. The engines `numpy` and `torch` return NumPy arrays.

        Raises:
            TypeError: an argument or the cotangent has a wrong type or dtype, or there are too many or few.
            ValueError: shapes do not fit, or there is no such engine.
        """
        if not isinstance(args, tuple | list):
            raise TypeError(f"{self.name}: args must be a tuple of the arguments, got {type(args).__name__}.")
        arrays, bound_options = self.bind(*args, **options)
        run = Op.jitted_engine(self, engine or f"rule:{self.default_rule.name}", **bound_options)
        if not any(is_inexact(x) for x in arrays):
            raise TypeError(f"{self.name}: no argument has a floating dtype, so there is no gradient to take.")
        return run(arrays, self._checked_cotangent(arrays, bound_options, ct))

    def bind(self, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Check a call's arguments; returns the array arguments in order and all options with their values."""
        try:
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}{self.__signature__}: {error}.") from None
        bound.apply_defaults()
        options = {name: bound.arguments.pop(name) for name in self.options}
        for name, value in bound.arguments.items():
            self._check_argument(name, value)
        for name, value in options.items():
            if isinstance(value, jax.Array | np.ndarray):
                raise TypeError(
                    f"{self.name}: the option {name} must be a Python value, which has no gradient and is compiled in, "
                    f"got an array of type {type(value).__name__}; convert it with {name}.item()."
                )
        if "axis" in options and not _is_axis(options["axis"]):
            raise TypeError(f"{self.name}: axis must be an int, a tuple of ints, or None, got {options['axis']!r}.")
        return tuple(bound.arguments.values()), options

    def promote(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[Any, ...]:
        """Convert the arguments to one floating dtype by JAX's promotion rules, as `stock` would; integers stay."""
        dtypes = {jnp.result_type(x) for name, x in zip(self.arguments, args, strict=True) if name not in self.integers}
        if len(dtypes) == 1 and jnp.issubdtype(next(iter(dtypes)), jnp.inexact):
            if self.elementwise:
                self._check_broadcast(args)
            return args
        dtype = self.output(args, options).dtype
        return self.convert(args, lambda x: jnp.asarray(x, dtype))

    def convert(self, args: tuple[Any, ...], to: Callable[[Any], Any]) -> tuple[Any, ...]:
        """The arguments with `to` applied to all but those in `integers`."""
        return tuple(x if n in self.integers else to(x) for n, x in zip(self.arguments, args, strict=True))

    def output(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
        """The output's shape and dtype, or an error that names the shapes that do not fit."""
        if self.elementwise:
            self._check_broadcast(args)
        try:
            return jax.eval_shape(functools.partial(self.stock, **options), *args)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.name} cannot take {self._describe(args)}: {str(error).splitlines()[0]}") from None

    def count_flops(self, shapes: Shapes) -> Flops:
        """Analytic floating-point operations at the given argument shapes."""
        if isinstance(self.flops, Flops):
            n = math.prod(np.broadcast_shapes(*shapes))
            return Flops(self.flops.fwd * n, self.flops.bwd * n)
        return self.flops(shapes)

    def _parameters(self, kind: Any) -> Iterator[str]:
        return (p.name for p in self.__signature__.parameters.values() if p.kind is kind)

    @functools.cached_property
    def options(self) -> tuple[str, ...]:
        return tuple(self._parameters(inspect.Parameter.KEYWORD_ONLY))

    def _check_argument(self, name: str, value: Any) -> None:
        if not isinstance(value, jax.Array | np.ndarray | np.generic | int | float):
            how = "complex numbers are not supported" if isinstance(value, complex) else "convert it with jnp.asarray"
            raise TypeError(
                f"{self.name}: argument {name} must be an array or a number, got {type(value).__name__}; {how}."
            )
        dtype = jnp.result_type(value)
        if name in self.integers and jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{self.name}: argument {name} must not be of a floating dtype, got {dtype}; "
                f"convert it, as with {name}.astype('int32')."
            )
        if not (
            jnp.issubdtype(dtype, jnp.floating)
            or jnp.issubdtype(dtype, jnp.integer)
            or jnp.issubdtype(dtype, jnp.bool_)
        ):
            raise TypeError(
                f"{self.name}: argument {name} must be of a floating, integer or boolean dtype, got {dtype}."
            )

    def _check_broadcast(self, args: tuple[Any, ...]) -> None:
        shapes = [jnp.shape(x) for x in args]
        if any(shape != shapes[0] for shape in shapes):
            try:
                np.broadcast_shapes(*shapes)
            except ValueError:
                raise ValueError(
                    f"{self.name}: the shapes of {self._describe(args)} do not broadcast together."
                ) from None

    def _checked_cotangent(self, args: tuple[Any, ...], options: Mapping[str, Any], ct: Any) -> Any:
        y = self.output(args, options)
        if not isinstance(ct, jax.Array | np.ndarray | np.generic | int | float):
            raise TypeError(f"{self.name}: ct must be an array or a number, got {type(ct).__name__}.")
        if jnp.shape(ct) != y.shape:
            raise ValueError(
                f"{self.name}: ct must have the output's shape {list(y.shape)}, got {list(jnp.shape(ct))}."
            )
        if isinstance(ct, int | float) and not isinstance(ct, np.generic):
            return np.asarray(ct, y.dtype)
        if jnp.result_type(ct) != y.dtype:
            raise TypeError(
                f"{self.name}: ct must have the output's dtype {y.dtype}, got {jnp.result_type(ct)}; "
                f"convert it with ct.astype({str(y.dtype)!r})."
            )
        return ct

    def _describe(self, args: tuple[Any, ...]) -> str:
        return ", ".join(
            f"{name} {jnp.result_type(x)}{list(jnp.shape(x))}" for name, x in zip(self.arguments, args, strict=True)
        )

    def _sections(self) -> Iterator[str]:
        yield f"{self.name}{self.__signature__}"
        yield self.summary
        yield f"Formula: {self.formula}"
        if self.domain:
            where = ", ".join(f"{name} in {domain}" for name, domain in self.domain.items())
            yield f"Domain: {where}."
        for kink in self.kinks:
            point = ", ".join(f"{n} = {shown((v,))}" for n, v in zip(self.arguments, kink.at, strict=True))
            values = "; ".join(f"{rule} gives {shown(gradient)}" for rule, gradient in kink.gradient.items())
            yield f"At {point}: {values}. {kink.why}"
        yield "Rules:\n" + "\n".join(f"    {b.name}: {b.rule.note}" for b in self.rules.values())
        yield f"Source: {self.source}"
        yield f"Example:\n\n{self.example}"

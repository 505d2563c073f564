"""Measure a user's function against autodiff: check its rule, compile every mode, compare, and time what is right."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxpr_as_fun

from jaxbp.accuracy.exact_primal import trace
from jaxbp.check.compare import Comparison
from jaxbp.check.judge import Call, Judge
from jaxbp.check.reference import Reference
from jaxbp.check.run import NO_DOMAIN, Checker
from jaxbp.check.subject import Subject, kinds, make_subject, summary
from jaxbp.check.trials import Trial, cotangents
from jaxbp.errors import UsageError, unknown_name
from jaxbp.measure.executables import Executable, Mode, compile_function, compile_passes
from jaxbp.measure.plan import ALL_MODES, LEVELS
from jaxbp.measure.task import accuracy_of
from jaxbp.measure.timer import Budget, interleave
from jaxbp.measure.truth import Truth
from jaxbp.measure.yardstick import Flat, Yardstick, make_yardstick, near

#: Modes that make a call together: of one the value, of the other the cotangents.
PAIRS: tuple[tuple[Mode, Mode], ...] = (
    *(("fwd_bwd", "fwd_bwd"), ("fwd_res", "bwd"), ("fwd", "fwd_bwd"), ("fwd", "summed")),
)
RULE, AUTODIFF = "rule", "autodiff"
#: How long the rounds of both engines take together; one function gets what a whole sweep gives to each of its cases.
BUDGETS: Mapping[str, Budget] = MappingProxyType(
    {"quick": LEVELS["standard"].budget, "standard": LEVELS["full"].budget}
)
Row = dict[str, Any]
#: Values and cotangents that are floats, as real NumPy arrays.
Results = tuple[list[np.ndarray], list[np.ndarray]]
#: What is done in turn, as rows of kind `step` tell it.
STEPS = ("checking the rule", "compiling the rule", "compiling autodiff", "timing both")


def measure_function(
    f: Callable[..., Any],
    args: Sequence[Any],
    *,
    stock: Callable[..., Any] | None = None,
    domain: Mapping[str, tuple[float, float]] = NO_DOMAIN,
    level: str = "standard",
    seed: int = 0,
) -> Iterator[Row]:
    """The rows of a function: of each engine and mode accuracy and samples, or why there are none; and what it is at.

    The arguments are those of `jaxbp.bench_vjp`.
    """
    if level not in BUDGETS:
        raise unknown_name("level of a benchmark", level, BUDGETS)
    yield _step(0)
    checker = _checker(f, args, stock, domain)
    problem = pose(checker, stock, seed)
    report = checker.run(seed)
    excused = frozenset((finding.kind, finding.argument) for finding in report.findings if not finding.fault)
    wrong = report.faults[0].text if report.faults else ""
    verifiers = {
        reference: Verifier(reference, checker.subject, problem.parts)
        for reference in (checker.reference, problem.stock_reference)
    }
    contestants = (
        Contestant(RULE, _flat(f, checker.subject), verifiers[checker.reference], wrong, excused),
        Contestant(AUTODIFF, problem.stock, verifiers[problem.stock_reference]),
    )
    about = {"function": report.name, **problem.about}
    timed: list[tuple[Contestant, dict[Mode, Row], dict[Mode, Executable]]] = []
    for number, contestant in enumerate(contestants, 1):
        yield _step(number)
        executables: dict[Mode, Executable] = {}
        found: dict[Mode, Row] = {mode: {} for mode in ALL_MODES}
        try:
            executables, found, fault = _prepare(problem, contestant)
        except Exception as error:  # Whatever the function raises, the other one is measured.
            fault = contestant.wrong or summary(error)
        shared = {**about, "engine": contestant.name, "right": not fault}
        rows: dict[Mode, Row] = {mode: {**shared, "mode": mode, **found[mode]} for mode in ALL_MODES}
        if fault:
            yield from ({**row, "kind": "failure", "reason": fault} for row in rows.values())
        else:
            timed.append((contestant, rows, executables))
    yield _step(len(STEPS) - 1)
    yield from _time(problem, timed, BUDGETS[level])


def _checker(
    f: Callable[..., Any],
    args: Sequence[Any],
    stock: Callable[..., Any] | None,
    domain: Mapping[str, tuple[float, float]],
) -> Checker:
    """By the function's own primal or, where JAX cannot differentiate that, by the stock function."""
    try:
        return Checker(f, *args, domain=domain, level="quick")
    except UsageError:
        if stock is None:
            raise
        return Checker(f, *args, stock=stock, domain=domain, level="quick")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One call of a function, and the truth about it.

    Attributes:
        args: its flat arguments as JAX's arrays; complex numbers and random keys as they are.
        cts: the cotangents of its outputs that are no integers, likewise.
        parts: these cotangents as the checker has them: real NumPy arrays.
        stock: what autodiff differentiates.
        stock_reference: the truth about that.
        yardstick: what the results of both are measured against.
        about: the columns that all rows share.
    """

    subject: Subject
    args: tuple[Any, ...]
    cts: list[Any]
    parts: list[np.ndarray]
    stock: Flat
    stock_reference: Reference
    yardstick: Yardstick
    about: Row
    rng: np.random.Generator

    @property
    def names(self) -> list[str]:
        """What the values and cotangents are called that have a truth."""
        subject = self.subject
        values = ["value" + subject.out_names[i].removeprefix("y") for i in subject.float_outs]
        return values + [f"ct_{subject.names[i]}" for i in subject.floats]


class Verifier:
    """Whether the results of executables are what they should be, as the checker judges them."""

    def __init__(self, reference: Reference, subject: Subject, cts: list[np.ndarray]) -> None:
        self.judge, self.subject = Judge(reference), subject
        self.call = Call(Trial("as given", subject.leaves), cts, "")
        #: The truth, and how far off each entry may be, of what was found right before: to know that takes a while.
        self.known: list[Comparison] = []

    def fault(self, results: Results, where: str, excused: frozenset[tuple[str, str]]) -> str:
        """What is wrong with values and cotangents; empty if nothing is."""
        flat = [*results[0], *results[1]]
        if self.known and all(map(_within, flat, self.known)):
            return ""
        outs: list[Any] = [None] * len(self.subject.shapes)
        for i, y in zip(self.subject.float_outs, results[0], strict=True):
            outs[i] = y
        call = dataclasses.replace(self.call, where=where)
        values, grads = self.judge.compare(call, outs, results[1])
        comparisons = [*values.values(), *grads.values()]
        if not any(found.wrong.any() for found in comparisons):
            self.known = comparisons
            return ""
        for finding in self.judge.judge(call, outs, results[1]):
            if finding.fault and (finding.kind, finding.argument) not in excused:
                return finding.text
        return ""


def _within(x: np.ndarray, known: Comparison) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.all(np.isinf(known.allowed) | (np.abs(x.astype(np.float64) - known.expected) <= known.allowed)))


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One of the two that are compared.

    Attributes:
        name: the engine.
        flat: its function of flat arguments.
        verifier: says whether its results are right.
        wrong: why it is wrong whatever its executables return; empty if it is not known to be.
        excused: kinds and arguments of findings that are no faults of it.
    """

    name: str
    flat: Flat
    verifier: Verifier
    wrong: str = ""
    excused: frozenset[tuple[str, str]] = frozenset()


def pose(checker: Checker, stock: Callable[..., Any] | None, seed: int) -> Problem:
    """A call of the checked function as it is measured, and of what it is measured against."""
    subject, rng = checker.subject, np.random.default_rng(seed)
    args = tuple(jax.tree.leaves(subject.arguments([jnp.asarray(x) for x in subject.leaves])))
    _, parts = next(cotangents(subject, "quick", seed))
    flat = _flat(subject.f, subject)
    if stock is None:
        structs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in args]
        other, reference = jaxpr_as_fun(trace(flat, structs)[0]), checker.reference
    else:
        other, reference = _flat(stock, subject), _stock_reference(checker, stock)
    shapes = {name: f"{x.dtype}{list(x.shape)}" for name, x in zip(subject.names, subject.leaves, strict=True)}
    about = {"arguments": json.dumps(shapes), "n": max(x.size for x in (*subject.leaves, *parts))}
    cts = list(_joined(jax.eval_shape(flat, *args), parts))
    yardstick = make_yardstick(checker.reference, flat, [_numpy(x) for x in args], parts, rng)
    return Problem(subject, args, cts, parts, other, reference, yardstick, about, rng)


def _stock_reference(checker: Checker, stock: Callable[..., Any]) -> Reference:
    """The truth about the stock function, which has to be the function that the checked one is."""
    subject, name = checker.subject, getattr(checker.subject.f, "__name__", "the function")
    try:
        other = make_subject(stock, subject.arguments(subject.leaves))
        reference = Reference(other)
        theirs = reference.value(*other.leaves)
    except UsageError as error:
        raise UsageError(f"{name} cannot be compared with this stock. {error}") from error
    ours = checker.reference.value(*subject.leaves)
    if kinds(other) != kinds(subject):
        raise UsageError(f"stock must return what {name} does, {kinds(subject)}, but it returns {kinds(other)}.")
    for i in subject.float_outs:
        digits = float(jnp.finfo(subject.shapes[i].dtype).eps) ** 0.5
        if not near(theirs[i], ours[i], digits):
            where = int(np.nanargmax(np.abs(theirs[i] - ours[i])))
            raise UsageError(
                f"stock must be another way to compute what {name} does, but its value {subject.out_names[i]} at flat "
                f"entry {where} is {theirs[i].flat[where]:.6g} where {name} gives {ours[i].flat[where]:.6g}."
            )
    return reference


def _prepare(problem: Problem, contestant: Contestant) -> tuple[dict[Mode, Executable], dict[Mode, Row], str]:
    """The executables of a contestant, what is known of each before it is timed, and what is wrong with them."""
    flat, args, cts = _Differentiated(contestant.flat), problem.args, problem.cts
    executables: dict[Mode, Executable] = {
        "fwd": compile_function(flat.value, *args),
        "fwd_bwd": compile_function(flat.value_and_vjp, args, cts),
        "summed": compile_function(flat.sums_and_vjp, args, cts),
        **compile_passes(flat.forward_pass, args, cts),
    }
    results: dict[Mode, Results] = {}
    rows: dict[Mode, Row] = {}
    for mode, executable in executables.items():
        start = time.perf_counter()
        output = executable.call()
        rows[mode] = {
            "first_call_us": 1e6 * (time.perf_counter() - start),
            "lower_ms": executable.lower_ms,
            "compile_ms": executable.compile_ms,
            "residual_bytes": executable.residual_bytes,
            "temp_bytes": executable.temp_bytes,
            "program": executable.program,
        }
        results[mode] = _real(mode, output)
    fault = contestant.wrong
    for forward, backward in PAIRS:
        both, where = (results[forward][0], results[backward][1]), f"the executables {forward} and {backward}"
        fault = fault or contestant.verifier.fault(both, where, contestant.excused)
    for mode in ALL_MODES:
        rows[mode] |= _accuracy(problem, *results[mode])
    return executables, rows, fault


class _Differentiated:
    """A flat function with its VJP, as traced functions of the arguments alone."""

    def __init__(self, flat: Flat) -> None:
        self.value = flat

    def forward_pass(self, *args: Any) -> tuple[list[Any], Any]:
        """All outputs, and the pullback of those that are floats to the arguments that are."""
        chosen = [i for i, x in enumerate(args) if _is_inexact(x)]

        def of_floats(*xs: Any) -> tuple[list[Any], list[Any]]:
            inputs = list(args)
            for i, x in zip(chosen, xs, strict=True):
                inputs[i] = x
            outs = list(self.value(*inputs))
            return [y for y in outs if _is_inexact(y)], outs

        _, pull, outs = jax.vjp(of_floats, *(args[i] for i in chosen), has_aux=True)
        return outs, pull

    def value_and_vjp(self, args: tuple[Any, ...], cts: list[Any]) -> tuple[list[Any], tuple[Any, ...]]:
        """All outputs and the cotangents of the arguments that are floats, in one executable."""
        outs, pull = self.forward_pass(*args)
        return outs, pull(cts)

    def sums_and_vjp(self, args: tuple[Any, ...], cts: list[Any]) -> tuple[list[Any], tuple[Any, ...]]:
        """Likewise, but of each output that is floats its sum times the cotangent."""
        outs, pull = self.forward_pass(*args)
        floats = (y for y in outs if _is_inexact(y))
        return [jnp.sum(y * ct) for y, ct in zip(floats, cts, strict=True)], pull(cts)


def _accuracy(problem: Problem, values: list[np.ndarray], grads: list[np.ndarray]) -> Row:
    """The columns of the worst of an executable's results, and `quantities` of all."""
    names, stick = problem.names, problem.yardstick
    n = len(problem.subject.float_outs)
    got = dict(zip(names[:n], values, strict=False)) | dict(zip(names[n:], grads, strict=False))
    rows = []
    for name, truth, entries in zip(names, stick.truths, stick.entries, strict=True):
        if name in got and truth.size:
            known = Truth(name, truth.shape, truth.reshape(-1)).at(entries)
            rows.append(accuracy_of(known.of(got[name]), known))
    if not rows:
        return {}
    worst = max(rows, key=lambda row: -1.0 if np.isnan(row["max_ulp"]) else row["max_ulp"])
    every = {row["quantity"]: [row["max_ulp"], row["median_ulp"]] for row in rows}
    del worst["kind"], worst["bound_fraction"]
    return {**worst, "yardstick": stick.name, "quantities": json.dumps(every)}


def _time(
    problem: Problem,
    timed: Sequence[tuple[Contestant, Mapping[Mode, Row], Mapping[Mode, Executable]]],
    budget: Budget,
) -> Iterator[Row]:
    """The rows of what is right, with samples taken in the same rounds."""
    cells = {(c.name, mode): (rows[mode], run[mode].call) for c, rows, run in timed for mode in ALL_MODES}
    baselines = {(RULE, mode): (AUTODIFF, mode) for mode in ALL_MODES if len(timed) == len((RULE, AUTODIFF))}
    try:
        samples = interleave({name: call for name, (_, call) in cells.items()}, budget, problem.rng, baselines)
    except Exception as error:
        yield from ({**row, "kind": "failure", "reason": summary(error)} for row, _ in cells.values())
        return
    faults = {contestant.name: _dishonesty(problem, contestant, run) for contestant, _, run in timed}
    for (engine, mode), (row, _) in cells.items():
        taken = samples[engine, mode]
        if faults[engine]:
            yield {**row, "kind": "failure", "reason": faults[engine], "right": False}
        else:
            yield {
                **row,
                "kind": "time",
                "samples_us": [1e6 * s for s in taken.seconds],
                "cores": taken.cores,
                "inner": taken.inner,
            }


def _dishonesty(problem: Problem, contestant: Contestant, executables: Mapping[Mode, Executable]) -> str:
    """After the timing: what is wrong for other inputs, the same entries moved by one place; empty if nothing is."""
    subject = problem.subject
    moved = subject.with_leaves([np.roll(x.reshape(-1), 1).reshape(x.shape) for x in subject.leaves])
    args = tuple(jax.tree.leaves(moved.arguments([jnp.asarray(x) for x in moved.leaves])))
    verifier = Verifier(contestant.verifier.judge.reference, moved, problem.parts)
    forward = executables["fwd_res"].apply(*args)
    handed_over = executables["bwd"].handed_over
    assert handed_over is not None
    outputs: dict[Mode, Any] = {
        "fwd": executables["fwd"].apply(*args),
        "fwd_bwd": executables["fwd_bwd"].apply(args, problem.cts),
        "summed": executables["summed"].apply(args, problem.cts),
        "fwd_res": forward,
        "bwd": executables["bwd"].apply(args, handed_over(forward), problem.cts),
    }
    results = {mode: _real(mode, output) for mode, output in outputs.items()}
    for forward_mode, backward_mode in PAIRS:
        both = results[forward_mode][0], results[backward_mode][1]
        where = f"the executables {forward_mode} and {backward_mode}, for inputs other than those it was timed with"
        if fault := verifier.fault(both, where, contestant.excused):
            return fault
    return ""


def _step(number: int) -> Row:
    return {"kind": "step", "name": STEPS[number]}


def _flat(f: Callable[..., Any], subject: Subject) -> Flat:
    """A function of the subject's arguments as one of their leaves, with the leaves of its output."""
    return lambda *xs: jax.tree.leaves(f(*jax.tree.unflatten(subject.treedef, xs)))


def _joined(shapes: Sequence[jax.ShapeDtypeStruct], parts: Sequence[np.ndarray]) -> Iterator[jax.Array]:
    """Cotangents as JAX takes them, of the real arrays that the checker has; that of the imaginary part is negative."""
    rest = iter(parts)
    for s in shapes:
        if jnp.issubdtype(s.dtype, jnp.complexfloating):
            yield lax.complex(jnp.asarray(next(rest)), -jnp.asarray(next(rest)))
        elif _is_inexact(s):
            yield jnp.asarray(next(rest))


def _real(mode: Mode, output: Any) -> Results:
    """Values and cotangents in an executable's output as real NumPy arrays; those of integers are left out."""
    match mode:
        case "fwd":
            values, grads = output, ()
        case "fwd_res":
            values, grads = output[0], ()
        case "bwd":
            values, grads = (), output
        case "summed":  # Of the values the sums alone.
            values, grads = (), output[1]
        case _:
            values, grads = output
    return (
        [part for y in values if _is_inexact(y) for part in _parts(y, 1)],
        [part for g in grads for part in _parts(g, -1)],
    )


def _parts(x: Any, sign: int) -> list[np.ndarray]:
    x = np.asarray(x)
    return [np.real(x), sign * np.imag(x)] if np.iscomplexobj(x) else [x]


def _numpy(x: Any) -> Any:
    return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x)


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)

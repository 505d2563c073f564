"""`check_vjp`: every part of the check in turn, and what it found."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

from jaxbp.accuracy.exact_control import is_float
from jaxbp.check.compare import Comparison, compare
from jaxbp.check.diagnosis import looks_like
from jaxbp.check.findings import CheckReport, Finding
from jaxbp.check.subject import Subject, make_subject
from jaxbp.check.transforms import second_order, transformed
from jaxbp.check.trials import Trial, cotangents, trials
from jaxbp.errors import UsageError, unknown_name

LEVELS = ("quick", "standard", "thorough")
#: Inputs this close to a kink, relative to their size, are taken for it; and how many of them are looked at.
BESIDE, SIDES = 2.0**-40, 16
#: A jump of the derivative beside an input that is no rounding.
JUMP = 2.0**-16
#: The second derivative is compared coarsely: a rule right at first order only is off by all of it.
COARSE = 0.05


class Check:
    """One run of `check_vjp`: the subject, and counts of what was looked at."""

    def __init__(self, subject: Subject, kinks: str, level: str, seed: int) -> None:
        self.subject = subject
        self.kinks = kinks
        self.level = level
        self.seed = seed
        self.compared = 0
        self.tried = 0
        self.seen: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def examine(self, trial: Trial, cts_name: str, cts: list[np.ndarray]) -> Iterator[Finding]:
        """Value and gradients of one trial, entry by entry."""
        self.tried += 1
        xs = (*trial.leaves, *cts)
        before = [x.copy() for x in xs]
        outs, grads = self.subject.jitted(*xs)
        where = f"inputs {trial.name}, cotangent {cts_name}"
        yield from self.judge(trial, cts, outs, grads, where)
        if any(not np.array_equal(x, y, equal_nan=is_float(x.dtype)) for x, y in zip(xs, before, strict=True)):
            yield Finding("contract", "args", f"The call changed its arguments ({where}).", inputs=where)

    def judge(
        self, trial: Trial, cts: list[np.ndarray], outs: Sequence[Any], grads: Sequence[Any], where: str
    ) -> Iterator[Finding]:
        """Compare results with the truth for the trial's arguments; kinks are accepted, or reported."""
        subject = self.subject
        xs = (*trial.leaves, *cts)
        expected, noisy = subject.truth(*xs), subject.noisy(*xs)
        n = len(outs)
        values = {subject.out_names[i]: compare(np.asarray(outs[i]), expected[i], noisy[i]) for i in subject.float_outs}
        names = [subject.names[i] for i in subject.floats]
        gradients = {
            name: compare(np.asarray(g), e, s)
            for name, g, e, s in zip(names, grads, expected[n:], noisy[n:], strict=True)
        }
        self.compared += sum(c.got.size for c in (*values.values(), *gradients.values()))
        if not any(c.wrong.any() for c in (*values.values(), *gradients.values())):
            return
        values, gradients = self._without_overflow(xs, values, gradients)
        for name, found in values.items():
            if found.wrong.any():
                yield _finding("value", name, found, "", where)
        leaves = dict(zip(subject.names, trial.leaves, strict=True))
        if any(found.wrong.any() for found in gradients.values()):
            beside = self._beside(xs, n)
            for (name, found), (low, high) in zip(gradients.items(), beside, strict=True):
                yield from self._gradient_findings(name, found, low, high, gradients, leaves, cts, where)

    def _gradient_findings(
        self,
        name: str,
        found: Comparison,
        low: np.ndarray,
        high: np.ndarray,
        others: Mapping[str, Comparison],
        leaves: Mapping[str, np.ndarray],
        cts: Sequence[np.ndarray],
        where: str,
    ) -> Iterator[Finding]:
        """Findings of one argument, the entries at kinks apart: any value between the one-sided derivatives will do."""
        with np.errstate(invalid="ignore"):
            jump = high - low > JUMP * np.maximum(np.abs(high), np.abs(low))
            between = (found.got >= low - found.allowed) & (found.got <= high + found.allowed)
        at_kink = found.wrong & jump & between
        wrong = Comparison(found.got, found.expected, found.allowed, found.wrong & ~at_kink)
        if at_kink.any():
            index = tuple(int(i) for i in np.argwhere(at_kink)[0])
            got, expected = float(found.got[index]), float(found.expected[index])
            text = (
                f"At a kink the cotangent of {name} is {got:.6g} where JAX's convention gives {expected:.6g}: entry "
                f"{list(index)}, between the one-sided derivatives {low[index]:.6g} and {high[index]:.6g} ({where})."
            )
            yield Finding(
                "kink",
                name,
                text,
                index,
                expected,
                got,
                inputs=where,
                fault=self.kinks == "error",
                entries=(int(at_kink.sum()), at_kink.size),
            )
        if wrong.wrong.any():
            likeness = looks_like(name, wrong, others, leaves, cts)
            if self._ignores(name, wrong):
                likeness = "the cotangent is ignored"
            yield _finding("gradient", name, wrong, likeness, where)

    def _ignores(self, name: str, found: Comparison) -> bool:
        """Whether the gradient is the same for another cotangent, though the truth is not."""
        i = self.subject.names.index(name)
        before = self.seen.setdefault(i, [])
        same = any(
            np.array_equal(got, found.got, equal_nan=True) and not np.array_equal(expected, found.expected)
            for got, expected in before
        )
        before.append((found.got, found.expected))
        return same and bool(found.got.any())

    def _beside(self, xs: tuple[np.ndarray, ...], n: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per gradient, its least and its largest value at inputs a hair beside these."""
        rng = np.random.default_rng(self.seed)
        found = [np.asarray(g) for g in self.subject.truth(*xs)[n:]]
        low, high = list(found), list(found)
        for _ in range(SIDES):
            moved = list(xs)
            for i in self.subject.floats:
                wide = np.nan_to_num(xs[i].astype(np.float64), nan=np.nan, posinf=0, neginf=0)
                step = BESIDE * rng.choice([-1.0, 1.0], wide.shape) * rng.uniform(0.5, 1, wide.shape)
                beside = wide + step * np.where(wide == 0, 1, np.abs(wide))
                moved[i] = np.where(np.isinf(xs[i]), xs[i], beside)
            for j, g in enumerate(self.subject.truth(*moved)[n:]):
                low[j], high[j] = np.fmin(low[j], g), np.fmax(high[j], g)
        return list(zip(low, high, strict=True))

    def _without_overflow(
        self, xs: tuple[np.ndarray, ...], values: dict[str, Comparison], gradients: dict[str, Comparison]
    ) -> tuple[dict[str, Comparison], dict[str, Comparison]]:
        """Without the entries where the primal, differentiated in its own dtype, has no finite answer either."""
        both = {**{f"value {k}": v for k, v in values.items()}, **{f"gradient {k}": v for k, v in gradients.items()}}
        if all(np.isfinite(c.got[c.wrong]).all() for c in both.values()):
            return values, gradients
        own = jax.jit(jaxpr_as_fun(self.subject.program))(*xs)
        n = len(self.subject.shapes)
        floats = [np.asarray(own[i]) for i in self.subject.float_outs] + [np.asarray(g) for g in own[n:]]
        kept = [
            Comparison(c.got, c.expected, c.allowed, c.wrong & (np.isfinite(c.got) | np.isfinite(o.astype(np.float64))))
            for c, o in zip(both.values(), floats, strict=True)
        ]
        return dict(zip(values, kept, strict=False)), dict(zip(gradients, kept[len(values) :], strict=True))

    def contract(self, cts: list[np.ndarray]) -> Iterator[Finding]:
        """What has to hold before numbers: types of the value, the same answer twice."""
        subject = self.subject
        differentiated, grads = jax.eval_shape(subject.value_and_vjp, *subject.leaves, *cts)
        for i, g in zip(subject.floats, grads, strict=True):
            name, x = subject.names[i], subject.leaves[i]
            if (g.shape, g.dtype) != (x.shape, x.dtype):
                text = f"The cotangent of {name} is {g.dtype}{list(g.shape)}, its dtype and shape should be "
                yield Finding("contract", name, f"{text}{x.dtype}{list(x.shape)}.")
        for name, a, b in zip(subject.out_names, subject.shapes, differentiated, strict=True):
            text = f"The forward pass of the rule gives {name} as {_type_of(b)}, the function itself as {_type_of(a)}."
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                yield Finding("contract", name, text)
            elif a.weak_type != b.weak_type:
                yield Finding("contract", name, text, fault=False)
        # JAX's own arrays, as a rule gets them: NumPy's have no `.at`.
        xs = tuple(map(jnp.asarray, (*subject.leaves, *cts)))
        first, second = (jax.tree.map(np.asarray, subject.jitted(*xs)) for _ in range(2))
        again = (
            jax.tree.map(np.asarray, subject.value_and_vjp(*xs)),
            jax.tree.map(np.asarray, subject.value_and_vjp(*xs)),
        )
        for a, b, how in ((first, second, "with jit"), (*again, "without jit")):
            same = [
                np.array_equal(x, y, equal_nan=is_float(x.dtype))
                for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
            ]
            if not all(same):
                yield Finding("determinism", "y", f"Two calls with the same arguments give different results, {how}.")

    def transforms(self, trial: Trial, cts: list[np.ndarray]) -> Iterator[Finding]:
        """The same results under each transform."""
        for name, run in transformed(self.subject, cts, self.level):
            where = f"inputs {trial.name}, under {name}"
            try:
                outs, grads = run()
            except Exception as error:
                text = f"Under {name} it raises {type(error).__name__}: {str(error).splitlines()[0]}"
                yield Finding("transform", "args", text, inputs=where)
                continue
            self.tried += 1
            yield from self.judge(trial, cts, outs, grads, where)

    def second_derivative(self, cts: list[np.ndarray]) -> Iterator[Finding]:
        """Whether the derivative of the gradient is that of the truth, coarsely."""
        subject = self.subject
        if any(jnp.finfo(subject.leaves[i].dtype).bits < 32 for i in subject.floats):
            return
        try:
            got, expected = second_order(subject, cts, self.seed)
        except Exception as error:
            text = f"The second derivative raises {type(error).__name__}: {str(error).splitlines()[0]}"
            yield Finding("transform", "args", text, inputs="second derivative", fault=False)
            return
        for i, a, b in zip(subject.floats, got, expected, strict=True):
            largest = np.max(np.abs(b), initial=0.0, where=np.isfinite(b))
            if not np.isfinite(b).all() or np.max(np.abs(a - b), initial=0.0) <= COARSE * largest + 1e-30:
                continue
            name = subject.names[i]
            noisy = np.stack([b, b + COARSE * largest / 4])
            found = compare(a, b, noisy)
            yield _finding("second order", name, found, "right at first order only", "second derivative")


def _type_of(struct: jax.ShapeDtypeStruct) -> str:
    return f"{struct.dtype}{list(struct.shape)}" + (", weakly typed" if struct.weak_type else "")


def _finding(kind: str, name: str, found: Comparison, likeness: str, where: str) -> Finding:
    index = found.worst
    got, expected = float(found.got[index]), float(found.expected[index])
    error = float(found.error[index])
    entries = (int(found.wrong.sum()), found.wrong.size)
    what = {"value": f"The value {name}", "gradient": f"The cotangent of {name}"}.get(
        kind, f"The {kind} cotangent of {name}"
    )
    text = (
        f"{what} is wrong in {entries[0]:,} of {entries[1]:,} entries; the worst, {list(index)}, is {got:.6g} and "
        f"should be {expected:.6g}, {error:.3g} times further off than rounding goes ({where})."
        + (f" It looks like: {likeness.lstrip(' ,')}." if likeness else "")
    )
    return Finding(kind, name, text, index, expected, got, error, entries, likeness.lstrip(" ,"), where)


def check_vjp(
    f: Callable[..., Any],
    *args: Any,
    inputs: Sequence[tuple[Any, ...]] = (),
    cotangents: Any = None,
    domain: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    kinks: str = "report",
    level: str = "standard",
    seed: int = 0,
) -> CheckReport:
    """Check the custom VJPs in a function against the derivative of what it computes, entry by entry.

    The truth is the function's primal, all custom rules stripped, differentiated and evaluated in float64. How far a
    result may be off is what rounding does to that very computation, entry by entry, found by evaluating it again
    with noise in place of rounding errors.

    Args:
        f: a `jax.custom_vjp` function, or any function of JAX that contains some.
        *args: arguments to call it with: arrays, numbers, pytrees of them; integers and booleans have no gradient.
        inputs: further tuples of arguments.
        cotangents: a cotangent of the output's structure, to be tried besides the usual ones.
        domain: by the name of an argument, as `args[0]`, the interval that inputs are drawn from.
        kinks: at a kink any value between the one-sided derivatives is right; `error` insists on JAX's.
        level: `quick`, `standard` or `thorough`.
        seed: of inputs and cotangents.

    Returns:
        A `CheckReport`: `.passed`, `.findings`, `str()`, `.to_frame()`, `.raise_if_failed()`.

    Raises:
        UsageError: the function cannot be called with the arguments, or cannot be checked; the text says why.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def cube(x):
    ...     return x**3
    >>> cube.defvjp(lambda x: (x**3, x), lambda x, ct: (2 * x**2 * ct,))
    >>> report = check_vjp(cube, jnp.arange(1.0, 4.0))
    >>> report.passed, report.findings[0].looks_like
    (False, '0.6667 times what it should be')
    """
    start = time.perf_counter()
    if level not in LEVELS:
        raise unknown_name("level of a check", level, LEVELS)
    if kinks not in ("report", "error"):
        raise unknown_name("way to treat kinks", kinks, ("report", "error"))
    subject = make_subject(f, args)
    for name in domain:
        if name not in subject.names:
            raise unknown_name("argument", name, subject.names)
    check = Check(subject, kinks, level, seed)
    findings: list[Finding] = []
    tried = [*_given(subject, inputs), *trials(subject, domain, level, seed)]
    rounds = list(_rounds(subject, level, seed, cotangents))
    first = rounds[0][1]
    try:
        findings += check.contract(first)
        for trial in tried:
            for name, cts in rounds if trial is tried[0] else rounds[:1]:
                findings += check.examine(trial, name, cts)
        findings += check.transforms(Trial("as given", subject.leaves), first)
        if level != "quick":
            findings += check.second_derivative(first)
    except UsageError:
        raise
    except (TypeError, ValueError, jax.errors.JAXTypeError, jax.errors.UnexpectedTracerError) as error:
        text = f"The rule raises {type(error).__name__}: {' '.join(str(error).split())[:400]}"
        findings.append(Finding("contract", "args", text))
    return CheckReport(
        getattr(f, "__name__", repr(f)),
        tuple(_most_telling(findings)),
        {"trials": check.tried, "entries": check.compared},
        tuple(_residuals(subject)),
        time.perf_counter() - start,
    )


def _given(subject: Subject, inputs: Sequence[tuple[Any, ...]]) -> Iterator[Trial]:
    for i, args in enumerate(inputs):
        other = make_subject(subject.f, args)
        kinds = [(x.shape, x.dtype) for x in other.leaves]
        if other.treedef != subject.treedef or kinds != [(x.shape, x.dtype) for x in subject.leaves]:
            raise UsageError(
                f"inputs[{i}] must have the structure, shapes and dtypes of the arguments; check another shape by a "
                "call of its own."
            )
        yield Trial(f"inputs[{i}]", other.leaves)


def _rounds(subject: Subject, level: str, seed: int, given: Any) -> Iterator[tuple[str, list[np.ndarray]]]:
    yield from cotangents(subject, level, seed)
    zeros = [np.zeros(subject.shapes[i].shape, subject.shapes[i].dtype) for i in subject.float_outs]
    yield "zero", zeros
    if given is not None:
        leaves = jax.tree.leaves(given)
        shapes = [subject.shapes[i] for i in subject.float_outs]
        if [np.shape(x) for x in leaves] != [s.shape for s in shapes]:
            raise UsageError("cotangents must have the structure and shapes of the outputs that are floats.")
        yield "as given", [np.asarray(x, s.dtype) for x, s in zip(leaves, shapes, strict=True)]


def _residuals(subject: Subject) -> Iterator[tuple[str, int]]:
    """What is kept between forward and backward pass, beyond the arguments."""

    def kept(*leaves: Any) -> Any:
        def of_floats(*xs: Any) -> list[Any]:
            inputs = list(leaves)
            for i, x in zip(subject.floats, xs, strict=True):
                inputs[i] = x
            return [x for i, x in enumerate(subject.flat(*inputs)) if i in subject.float_outs]

        return jax.tree.leaves(jax.vjp(of_floats, *(leaves[i] for i in subject.floats))[1])

    try:
        jaxpr = jax.make_jaxpr(kept)(*subject.leaves).jaxpr
    except Exception:  # The check has said why.
        return
    variables = (v for v in jaxpr.outvars if not isinstance(v, Literal))
    for v in dict.fromkeys(v for v in variables if v not in jaxpr.invars):
        yield f"{v.aval.dtype}{list(v.aval.shape)}", v.aval.size * v.aval.dtype.itemsize


def _most_telling(findings: list[Finding]) -> Iterator[Finding]:
    """Faults first; of a kind and an argument the one that says most, and how many others there were.

    A gradient that is wrong makes the second derivative wrong, too: that is told only where it is all there is.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: not finding.fault):
        groups.setdefault((finding.kind, finding.argument), []).append(finding)
    first_order = any(f.fault and f.kind in ("gradient", "value", "contract") for f in findings)
    for (kind, _), group in groups.items():
        if kind == "second order" and first_order:
            continue
        best = max(
            group, key=lambda f: (f.fault, bool(f.looks_like) and not f.looks_like.startswith("in "), -group.index(f))
        )
        others = len(group) - 1
        yield dataclasses.replace(best, text=f"{best.text} So it was in {others} other trials.") if others else best

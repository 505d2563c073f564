"""`check_vjp`: every part of the check in turn, and what it found."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.contract import gradient_types, linearity, purity, residuals, types
from jaxbp.check.findings import CheckReport, Finding
from jaxbp.check.judge import Call, Judge, gradient_finding
from jaxbp.check.reference import Reference
from jaxbp.check.shapes import other_shapes
from jaxbp.check.subject import RuleRaisedError, Subject, make_subject, summary
from jaxbp.check.transforms import Run, SecondOrder, transforms
from jaxbp.check.trials import Trial, cotangents, declared_domain, require_intervals, trials
from jaxbp.check.witness import slopes
from jaxbp.errors import UsageError, unknown_name

LEVELS = ("quick", "standard", "thorough")
NO_DOMAIN: Mapping[str, tuple[float, float]] = MappingProxyType({})


class Checker:
    """A function made ready to be checked: what is compiled for one seed serves all others.

    The arguments are those of `check_vjp`.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        *args: Any,
        stock: Callable[..., Any] | None = None,
        inputs: Sequence[tuple[Any, ...]] = (),
        cotangents: Any = None,
        domain: Mapping[str, tuple[float, float]] = NO_DOMAIN,
        kinks: str = "report",
        precision: str = "report",
        shapes: str = "vary",
        level: str = "standard",
    ) -> None:
        for what, given, known in (
            ("level of a check", level, LEVELS),
            ("way to treat kinks", kinks, ("report", "error")),
            ("way to treat lost precision", precision, ("report", "error")),
            ("way to treat shapes", shapes, ("vary", "keep")),
        ):
            if given not in known:
                raise unknown_name(what, given, known)
        self.subject = make_subject(f, args, stock)
        for name in domain:
            if name not in self.subject.names:
                raise unknown_name("argument", name, self.subject.names)
        require_intervals(domain)
        self.domain, self.level, self.shapes = {**declared_domain(f), **domain}, level, shapes
        self.strict = frozenset(["kink"] * (kinks == "error") + ["precision"] * (precision == "error"))
        self.given = tuple(_given(self.subject, inputs))
        self.cts = _given_cotangents(self.subject, cotangents)
        self.reference = Reference(self.subject)

    @functools.cached_property
    def transforms(self) -> tuple[tuple[str, Run], ...]:
        return tuple(transforms(self.subject, self.level, self.domain))

    @functools.cached_property
    def others(self) -> tuple[tuple[str, Subject, Reference], ...]:
        """The subject at other shapes."""
        found = other_shapes(self.subject) if self.level != "quick" and self.shapes == "vary" else ()
        return tuple((name, subject, Reference(subject)) for name, subject in found)

    @functools.cached_property
    def second_order(self) -> SecondOrder:
        return SecondOrder(self.reference)

    def run(self, seed: int = 0) -> CheckReport:
        """Check, with inputs and cotangents drawn from a seed."""
        start = time.perf_counter()
        judge = Judge(self.reference, self.strict, seed)
        findings: list[Finding] = []
        try:
            # One by one, so that what was found before a rule raises is told. What overflows is judged, not warned of.
            # An accelerator that rounds the factors of products by default is no fault of a rule.
            with np.errstate(all="ignore"), jax.default_matmul_precision("highest"):
                findings.extend(self._parts(judge, seed))
            if self.level != "quick" or any(f.fault and f.kind == "gradient" for f in findings):
                witnessed, decided = self._witnessed(seed)
                findings = [*self._believing(witnessed, decided, findings), *witnessed]
            kept = tuple(residuals(self.subject))
        except RuleRaisedError as error:
            findings.append(Finding("contract", "args", f"The rule raises {error}"))
            kept = ()
        return CheckReport(
            getattr(self.subject.f, "__name__", repr(self.subject.f)),
            tuple(_most_telling(findings)),
            {"calls": judge.tried, "entries": judge.compared},
            kept,
            time.perf_counter() - start,
        )

    def _parts(self, judge: Judge, seed: int) -> Iterator[Finding]:
        subject = self.subject
        first, *more = cotangents(subject, self.level, seed)
        given = Trial("as given", subject.leaves)
        xs = _arrays(given, first[1])
        yield from types(subject, first[1])
        yield from purity(subject, xs, ("with jit",) if self.level == "quick" else ("with jit", "without jit"))
        # A loop that waits for its floats may wait for infinities for ever.
        left_out = ("masked",) if self.reference.converges else ()
        others = (t for t in trials(subject, self.domain, self.level, seed) if t.name not in left_out)
        rounds = [first, *more, ("zero", [np.zeros_like(ct) for ct in first[1]]), *self.cts]
        for trial in (*self.given, *others):
            for name, cts in rounds if trial.name == "as given" else rounds[:1]:
                call = Call(trial, cts, f"inputs {trial.name}, cotangent {name}")
                yield from judge.judge(call, *subject.jitted(*_arrays(trial, cts)), digits=cts is first[1])
        yield from linearity(subject, xs)
        yield from self._under_transforms(judge, Call(given, first[1], "inputs as given"))
        if self.level != "quick":
            yield from self._at_other_shapes(judge, seed)
            yield from self._second_derivative(first[1], seed)

    def _runs_without_rules(self, name: str, xs: Sequence[Any]) -> bool:
        """Whether the function itself can be transformed so."""
        try:
            dict(transforms(self.reference.stripped, self.level, self.domain))[name](*xs)
        except Exception:
            return False
        return True

    def _reference_in_x64(self) -> Reference:
        """Traced with x64 on the function may be another one: one that draws random numbers draws others."""
        with jax.enable_x64(True):
            return Reference(self.subject)

    def _under_transforms(self, judge: Judge, call: Call) -> Iterator[Finding]:
        """The same results under each transform."""
        for name, run in self.transforms:
            where = f"{call.where}, under {name}"
            xs = _arrays(call.trial, call.cts)
            try:
                outs, grads = run(*xs)
            except Exception as error:
                if self._runs_without_rules(name, xs):
                    yield Finding("transform", "args", f"Under {name} it raises {_told(error)}", inputs=where)
                continue
            yield from gradient_types(self.subject, grads, where)
            found = list(judge.judge(Call(call.trial, call.cts, where), outs, grads))
            if found and name == "x64":
                there = Judge(self._reference_in_x64(), judge.strict, judge.seed)
                found = there.judge(Call(call.trial, call.cts, where), outs, grads)
            yield from found

    def _at_other_shapes(self, judge: Judge, seed: int) -> Iterator[Finding]:
        for name, subject, reference in self.others:
            _, cts = next(cotangents(subject, "quick", seed))
            call = Call(Trial(name, subject.leaves), cts, f"inputs {name}")
            there = Judge(reference, judge.strict, seed)
            try:
                outs, grads = subject.jitted(*_arrays(call.trial, cts))
            except RuleRaisedError as error:
                if reference.runs(call.xs):
                    text = (
                        f"{name.capitalize()}, the rule raises {str(error).rstrip('.')}. The function itself does not."
                    )
                    # Few rules think of arrays without entries, and one that raises there misleads nobody.
                    yield Finding("contract", "args", text, inputs=call.where, fault="shapes empty" not in name)
                continue
            yield from there.judge(call, outs, grads)
            judge.tried, judge.compared = judge.tried + there.tried, judge.compared + there.compared

    def _second_derivative(self, cts: list[np.ndarray], seed: int) -> Iterator[Finding]:
        """Whether the derivative of the gradient is that of the truth, coarsely."""
        subject = self.subject
        if any(jnp.finfo(subject.leaves[i].dtype).bits < 32 for i in subject.floats):
            return
        try:
            comparisons = self.second_order(cts, seed)
        except Exception as error:
            text = f"The second derivative raises {_told(error)}"
            yield Finding("transform", "args", text, inputs="second derivative", fault=False)
            return
        for i, found in zip(subject.floats, comparisons, strict=True):
            if found.wrong.any():
                likeness = "right at first order only"
                yield gradient_finding("second order", subject.names[i], found, likeness, "second derivative")

    def _witnessed(self, seed: int) -> tuple[list[Finding], set[str]]:
        """Where JAX's own derivative of what the function computes is not the slope of its values.

        And the arguments of which that could be told.
        """
        subject = self.subject
        _, cts = next(cotangents(subject, "quick", seed))
        _, grads = subject.jitted(*_arrays(Trial("as given", subject.leaves), cts))
        found: list[Finding] = []
        decided: set[str] = set()
        for slope in slopes(self.reference, subject.leaves, cts, seed):
            name = subject.names[slope.leaf]
            decided.add(name)
            got = float(np.asarray(grads[subject.floats.index(slope.leaf)])[slope.index])
            right = dataclasses.replace(slope, derivative=got)
            # Where gradients are stopped JAX's derivative is meant to differ, unless the rule speaks for the slope.
            if slope.disagrees and not (self.reference.stops_gradients and right.disagrees):
                text = (
                    f"JAX's derivative of what the function computes is {slope.derivative:.6g} for {name}, entry "
                    f"{list(slope.index)}, but its values have the slope {slope.slope:.6g}; the rule gives {got:.6g}."
                )
                found.append(Finding("witness", name, text, slope.index, slope.slope, got, fault=right.disagrees))
        if self.reference.converges:
            text = (
                "A loop of the function ends when its floats say so: its derivative is known to some tolerance, and "
                "of the rule's errors only those above a tenth of an entry are told."
            )
            found.append(Finding("witness", "args", text, fault=False))
        return found, decided

    def _believing(
        self, witnessed: Sequence[Finding], decided: set[str], findings: Sequence[Finding]
    ) -> Iterator[Finding]:
        """Findings that rest on JAX's derivative are notes where the rule has the slope of the values and that has not.

        A bisection, say, is constant piece by piece; a rule by the implicit function theorem is right nevertheless. Of
        iterations that end at a tolerance and whose values have no clear slope nothing is said.
        """
        believed = {finding.argument for finding in witnessed if not finding.fault}
        if self.reference.converges and not self.reference.stops_gradients:
            believed |= {name for name in self.subject.names if name not in decided}
        for finding in findings:
            rests = finding.kind in ("gradient", "second order") and finding.argument in believed
            yield dataclasses.replace(finding, fault=finding.fault and not rests)


def check_vjp(
    f: Callable[..., Any],
    *args: Any,
    stock: Callable[..., Any] | None = None,
    inputs: Sequence[tuple[Any, ...]] = (),
    cotangents: Any = None,
    domain: Mapping[str, tuple[float, float]] = NO_DOMAIN,
    kinks: str = "report",
    precision: str = "report",
    shapes: str = "vary",
    level: str = "standard",
    seed: int = 0,
) -> CheckReport:
    """Check the custom VJPs in a function against the derivative of what it computes, entry by entry.

    The truth is the function's primal, all custom rules stripped, or `stock`, differentiated and evaluated in float64.
    How far a result may be off is what rounding does to that very computation, entry by entry, found by evaluating it
    again with noise in place of rounding errors.

    Args:
        f: a `jax.custom_vjp` function, or any function of JAX that contains some.
        *args: arguments to call it with: arrays, numbers, pytrees of them; integers and booleans have no gradient.
        stock: a function of plain JAX that computes what f should, and takes the place of f's primal as the truth, for
            values and gradients. It is needed where JAX cannot differentiate f without its rules: a Pallas kernel, a
            callback, a foreign function.
        inputs: further tuples of arguments.
        cotangents: a cotangent of the output's structure, to be tried besides the usual ones.
        domain: by the name of an argument, as `args[0]`, the interval that inputs are drawn from; of an op of jaxbp the
            one that it declares, if that has two ends.
        kinks: at a kink any value between the one-sided derivatives is right; `error` insists on JAX's.
        precision: a cotangent that is as right as autodiff of the primal, but has lost digits that another formula
            keeps, is reported; `error` makes it a fault.
        shapes: `vary` tries other shapes that the function admits; `keep` stays with the given ones.
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
    options = {"kinks": kinks, "precision": precision, "shapes": shapes, "level": level}
    return Checker(f, *args, stock=stock, inputs=inputs, cotangents=cotangents, domain=domain, **options).run(seed)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, RuleRaisedError) else summary(error)


def _arrays(trial: Trial, cts: Sequence[np.ndarray]) -> tuple[jax.Array, ...]:
    """JAX's own arrays, as a rule gets them: NumPy's have no `.at`."""
    return tuple(map(jnp.asarray, (*trial.leaves, *cts)))


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


def _given_cotangents(subject: Subject, given: Any) -> list[tuple[str, list[np.ndarray]]]:
    if given is None:
        return []
    leaves = jax.tree.leaves(given)
    shapes = [subject.shapes[i] for i in subject.float_outs]
    if [np.shape(x) for x in leaves] != [s.shape for s in shapes]:
        raise UsageError("cotangents must have the structure and shapes of the outputs that are floats.")
    return [("as given", [np.asarray(x, s.dtype) for x, s in zip(leaves, shapes, strict=True)])]


def _most_telling(findings: list[Finding]) -> Iterator[Finding]:
    """Faults first; of a kind and an argument the one that says most, and how many others there were.

    A gradient that is wrong makes the second derivative wrong, too, and has no digits to lose: that is told only where
    it is all there is.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: not finding.fault):
        groups.setdefault((finding.kind, finding.argument), []).append(finding)
    first_order = any(f.fault and f.kind in ("gradient", "value", "contract") for f in findings)
    wrong = {f.argument for f in findings if f.fault and f.kind == "gradient"}
    for (kind, argument), group in groups.items():
        if (kind == "second order" and first_order) or (kind == "precision" and argument in wrong):
            continue
        best = max(
            group, key=lambda f: (f.fault, bool(f.looks_like) and not f.looks_like.startswith("in "), -group.index(f))
        )
        alone = _circumstance([f.inputs for f in group if f.fault])
        if alone:
            likeness = ", ".join(filter(None, (alone, best.looks_like)))
            best = dataclasses.replace(best, looks_like=likeness, text=f"{best.text} It is {alone}.")
        others = len(group) - 1
        yield dataclasses.replace(best, text=f"{best.text} So it was in {others} other trials.") if others else best


def _circumstance(inputs: list[str]) -> str:
    """What all the trials that show a fault have in common that is no matter of numbers."""
    if not inputs:
        return ""
    if all("with shapes" in text for text in inputs):
        return "wrong at other shapes alone"
    under = [text.partition(", under ")[2].partition(" over")[0] for text in inputs]
    return f"wrong under {under[0]} alone" if under[0] and len(set(under)) == 1 else ""

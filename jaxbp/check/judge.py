"""The verdict on one call: each value and each cotangent against the truth, kinks and lost digits told apart."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxbp.check.compare import Comparison, compare
from jaxbp.check.diagnosis import looks_like, place_of
from jaxbp.check.findings import Finding
from jaxbp.check.kinks import Sides, at_kinks, sides, uneven_shares
from jaxbp.check.reference import Reference
from jaxbp.check.trials import FAR, Trial
from jaxbp.check.witness import certified


@dataclasses.dataclass(frozen=True)
class Call:
    """What a function was called with: a trial and cotangents; `where` says so in words."""

    trial: Trial
    cts: Sequence[np.ndarray]
    where: str

    @property
    def xs(self) -> tuple[np.ndarray, ...]:
        return (*self.trial.leaves, *self.cts)


class Judge:
    """Judges calls of a subject, and counts what it has looked at.

    Attributes:
        reference: the truth.
        strict: what is a fault although it might be meant: `kink`, `precision`.
        compared: entries compared.
        tried: calls judged.
    """

    def __init__(self, reference: Reference, strict: frozenset[str] = frozenset(), seed: int = 0) -> None:
        self.reference = reference
        self.strict = strict
        self.seed = seed
        self.compared = 0
        self.tried = 0
        self.seen: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def judge(self, call: Call, outs: Sequence[Any], grads: Sequence[Any], digits: bool = False) -> Iterator[Finding]:
        """What is wrong with these values and cotangents; with `digits`, what they have lost, too."""
        values, gradients = self.compare(call, outs, grads)
        self.tried += 1
        self.compared += sum(c.got.size for c in (*values.values(), *gradients.values()))
        for name, found in values.items():
            if found.wrong.any():
                yield gradient_finding("value", name, found, "", call.where)
        yield from self._infinities(call, values)
        if any(found.wrong.any() for found in gradients.values()):
            yield from self._gradients(call, gradients)
        elif digits and not self.reference.converges:
            yield from self._lost_digits(call, gradients)

    def compare(
        self, call: Call, outs: Sequence[Any], grads: Sequence[Any]
    ) -> tuple[dict[str, Comparison], dict[str, Comparison]]:
        """The comparisons of values and cotangents by name."""
        reference, subject = self.reference, self.reference.subject
        got = [np.asarray(outs[i]) for i in subject.float_outs] + [np.asarray(g) for g in grads]

        def results(xs: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [xs[i] for i in subject.float_outs] + list(xs[len(subject.shapes) :])

        def named(found: list[Comparison]) -> tuple[dict[str, Comparison], dict[str, Comparison]]:
            n = len(subject.float_outs)
            values = zip((subject.out_names[i] for i in subject.float_outs), found[:n], strict=True)
            return dict(values), dict(zip((subject.names[i] for i in subject.floats), found[n:], strict=True))

        expected = results(reference.truth(*call.xs))
        found = [compare(g, e) for g, e in zip(got, expected, strict=True)]
        # Only what is off by more than a few units needs to know what rounding may do; and float64, as the truth is no
        # better than that.
        if not any(c.wrong.any() or g.dtype == np.float64 for c, g in zip(found, got, strict=True)):
            return named(found)
        noisy = results(reference.noisy(*call.xs))
        found = [compare(g, e, s) for g, e, s in zip(got, expected, noisy, strict=True)]
        if any(c.wrong.any() for c in found):
            # No better answer is asked for than the primal, differentiated in its own dtype, has: it may overflow.
            own = results(reference.own(call.xs))
            found = [c.where(~c.like(o)) for c, o in zip(found, own, strict=True)]
            if reference.mixes:
                # Of a singular matrix, say: where nothing of the values, or little of a cotangent, is a number, all the
                # rest is an accident.
                n = len(subject.float_outs)
                valued = any(np.isfinite(c.expected).any() for c in found[:n])
                found[n:] = [
                    c if valued and _mostly_finite(c.expected) else c.where(np.zeros_like(c.wrong)) for c in found[n:]
                ]
            if reference.mixes and any(c.wrong.any() for c in found):
                moved = results(reference.conditioning(call.xs, self.seed))
                found = [c.where(~c.of_another_order(m)) for c, m in zip(found, moved, strict=True)]
                meant = reference.formula(call.xs) if any(c.wrong.any() for c in found) else None
                if meant is not None:
                    parts = zip(found, results(meant), moved, strict=True)
                    far = call.trial.name in FAR
                    found = [c.where(~c.of_a_right_formula(f, m, far)) for c, f, m in parts]
            if reference.converges:
                found = [c.where(c.beyond_a_tolerance()) for c in found]
        return named(found)

    def _infinities(self, call: Call, values: Mapping[str, Comparison]) -> Iterator[Finding]:
        """Values that are infinite or NaN, as they should be, in a plain call, but not under differentiation."""
        off = {
            name: ~np.isfinite(c.expected) & ~((c.got == c.expected) | (np.isnan(c.got) & np.isnan(c.expected)))
            for name, c in values.items()
        }
        if not any(entries.any() for entries in off.values()):
            return
        plain = self.reference.subject.plain(*call.trial.leaves)
        for i, (name, entries) in zip(self.reference.subject.float_outs, off.items(), strict=True):
            found, y = values[name], np.asarray(plain[i], np.float64)
            entries &= (y == found.expected) | (np.isnan(y) & np.isnan(found.expected))
            if entries.any():
                index = tuple(int(k) for k in np.argwhere(entries)[0])
                got, expected = float(found.got[index]), float(found.expected[index])
                text = (
                    f"Under differentiation the value {name} is {got:.6g} at {list(index)}, where a plain call gives "
                    f"{expected:.6g} ({call.where})."
                )
                count = (int(entries.sum()), entries.size)
                yield Finding("value", name, text, index, expected, got, np.inf, count, inputs=call.where)

    def _gradients(self, call: Call, gradients: Mapping[str, Comparison]) -> Iterator[Finding]:
        """Findings of all arguments; at kinks any value between the one-sided derivatives will do."""
        beside = sides(self.reference, call.xs, self.seed)
        leaves = dict(zip(self.reference.subject.names, call.trial.leaves, strict=True))
        kinks = at_kinks(self.reference, call.xs, list(gradients.values()), beside)
        for (name, found), side, at_kink in zip(gradients.items(), beside, kinks, strict=True):
            if at_kink.any():
                yield self._kink(name, found, side, at_kink, call.where)
            wrong = found.where(~at_kink)
            if wrong.wrong.any():
                likeness = looks_like(name, wrong, gradients, leaves, call.cts)
                if self._ignores(name, wrong):
                    likeness = "the cotangent is ignored"
                yield gradient_finding("gradient", name, wrong, likeness, call.where)
        if any(at_kink.any() for at_kink in kinks) and all(
            (at_kink == found.wrong).all() for at_kink, found in zip(kinks, gradients.values(), strict=True)
        ):
            share = uneven_shares(self.reference, call.xs, list(gradients.values()), beside)
            if share is not None:
                likeness = "wrong at ties"
                names = ", ".join(name for name, kink in zip(gradients, kinks, strict=True) if kink.any())
                text = (
                    f"At a tie the cotangents of {names} are each between the one-sided derivatives, but together they "
                    f"are {share:.4g} times what they should be ({call.where}). It looks like: {likeness}."
                )
                yield Finding("gradient", names, text, looks_like=likeness, inputs=call.where)

    def _kink(self, name: str, found: Comparison, side: Sides, at_kink: np.ndarray, where: str) -> Finding:
        index = tuple(int(i) for i in np.argwhere(at_kink)[0])
        got, expected = float(found.got[index]), float(found.expected[index])
        low, high = side.low[index], side.high[index]
        text = (
            f"At a kink of its code the cotangent of {name} is {got:.6g} where JAX's convention gives {expected:.6g}: "
            f"entry {list(index)}, between the one-sided derivatives {low:.6g} and {high:.6g} ({where})."
        )
        entries = (int(at_kink.sum()), at_kink.size)
        fault = "kink" in self.strict
        return Finding("kink", name, text, index, expected, got, entries=entries, inputs=where, fault=fault)

    def _ignores(self, name: str, found: Comparison) -> bool:
        """Whether the gradient is the same for another cotangent, though the truth is not."""
        before = self.seen.setdefault(name, [])
        same = any(
            got.shape == found.got.shape
            and np.array_equal(got, found.got, equal_nan=True)
            and not np.array_equal(expected, found.expected)
            for got, expected in before
        )
        before.append((found.got, found.expected))
        return same and bool(found.got.any())

    def _lost_digits(self, call: Call, gradients: Mapping[str, Comparison]) -> Iterator[Finding]:
        leaves = dict(zip(self.reference.subject.names, call.trial.leaves, strict=True))
        for name, lost in self.lost(call, gradients).items():
            if lost.wrong.any():
                others = {**gradients, name: lost}
                yield self._precision(name, lost, place_of(name, lost, others, leaves), call.where)

    def lost(self, call: Call, gradients: Mapping[str, Comparison]) -> dict[str, Comparison]:
        """Entries that are as right as autodiff of the primal goes, but not as right as their conditioning allows."""
        found = list(gradients.values())
        if not any((c.doubt > 0).any() for c in found):
            return {}  # All within a few units of the truth.
        n = len(self.reference.subject.shapes)
        conditioning = self.reference.conditioning(call.xs, self.seed)[n:]
        trusting = [dataclasses.replace(c, doubt=np.zeros_like(c.doubt)) for c in found]
        # Where float64 itself cannot tell, as it cancels, too.
        doubtful = [c.doubt > t.lost(k).allowed for c, t, k in zip(found, trusting, conditioning, strict=True)]
        if any(entries.any() for entries in doubtful):
            exact = certified(self.reference, call.xs)
            if exact is not None:
                found = [dataclasses.replace(c, expected=e) for c, e in zip(trusting, exact[n:], strict=True)]
        return {name: c.lost(k) for name, c, k in zip(gradients, found, conditioning, strict=True)}

    def _precision(self, name: str, lost: Comparison, likeness: str, where: str) -> Finding:
        index = lost.worst
        got, expected = float(lost.got[index]), float(lost.expected[index])
        off = abs(got - expected) / abs(expected) if expected else 1.0
        bits, all_bits = max(0, int(-np.log2(off))) if np.isfinite(off) else 0, int(-np.log2(lost.unit))
        entries = (int(lost.wrong.sum()), lost.wrong.size)
        text = (
            f"The cotangent of {name} has lost digits in {entries[0]:,} of {entries[1]:,} entries that another formula "
            f"could keep; the worst, {list(index)}, is {got:.6g} and should be {expected:.6g}: {bits} of {all_bits} "
            f"bits are right ({where})." + (f" It is {likeness}." if likeness else "")
        )
        size = float(lost.error[index])
        fault = "precision" in self.strict
        return Finding("precision", name, text, index, expected, got, size, entries, likeness, where, fault)


def _mostly_finite(x: np.ndarray) -> bool:
    return 2 * int(np.isfinite(x).sum()) > x.size


def gradient_finding(kind: str, name: str, found: Comparison, likeness: str, where: str) -> Finding:
    """The finding about the worst entry of a comparison."""
    index = found.worst
    got, expected, error = (float(x[index]) for x in (found.got, found.expected, found.error))
    entries = (int(found.wrong.sum()), found.wrong.size)
    subject = {"value": "value", "gradient": "cotangent of"}.get(kind, f"{kind} cotangent of")
    text = (
        f"The {subject} {name} is wrong in {entries[0]:,} of {entries[1]:,} entries; the worst, {list(index)}, is "
        f"{got:.6g} and should be {expected:.6g}, {error:.3g} times further off than rounding goes ({where})."
        + (f" It looks like: {likeness}." if likeness else "")
    )
    return Finding(kind, name, text, index, expected, got, error, entries, likeness, where)

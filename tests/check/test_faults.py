"""What rules that are kept for teaching are known to do wrong is found, and nothing else is, in any rule."""

import numpy as np
import pytest

import jaxbp
from jaxbp.accuracy.points import argument_points
from jaxbp.check.judge import Call, Judge
from jaxbp.check.run import Checker
from jaxbp.check.trials import Trial
from tests.mutants.operators import arguments

UNARY = [(op, name) for op in jaxbp.OPS if op.elementwise and len(op.arguments) == 1 for name in op.rules]
DECLARED = [(op, name) for op in jaxbp.OPS for name, rule in op.rules.items() if rule.rule.faults]


def points(op):
    """Hard points and others of every magnitude, in the op's domain."""
    (x,) = argument_points(op, "float32", 3000)
    usual = np.linspace(-120, 120, 2401, dtype=np.float32)
    x = np.concatenate([x, usual, np.linspace(0, 1, 501, dtype=np.float32)])
    x = x[np.isfinite(x) & (np.abs(x) < 1e30) & ((np.abs(x) > 1e-30) | (x == 0))]
    for domain in op.domain.values():
        x = x[(x > domain.low) & (x < domain.high) & ~np.isin(x, domain.excluded)]
    return x


def found_at(f, args):
    """By kind, the entries of an elementwise function of one argument that the checker finds fault with."""
    checker = Checker(f, *args, level="quick", shapes="keep")
    ct = np.ones(args[0].shape, np.float32)
    call = Call(Trial("points", checker.subject.leaves), [ct], "points")
    judge = Judge(checker.reference)
    values, gradients = judge.compare(call, *checker.subject.jitted(*args, ct))
    (value,), (gradient,) = values.values(), gradients.values()
    lost = next(iter(judge.lost(call, gradients).values()), None)
    nothing = np.zeros(args[0].shape, bool)
    # What is below the smallest normal number has no digits to lose.
    normal = np.abs(gradient.expected) > 2 * np.finfo(np.float32).tiny
    kinds = {"value": value.wrong, "gradient": gradient.wrong, "precision": nothing if lost is None else lost.wrong}
    return kinds, normal


@pytest.mark.parametrize(("op", "name"), UNARY, ids=lambda p: p if isinstance(p, str) else p.name)
def test_exactly_the_declared_faults_are_found(op, name):
    x = points(op)
    found, normal = found_at(op.rules[name], (x,))
    faults = {fault.kind: fault for fault in op.rules[name].rule.faults}
    # What loses digits is wrong with a version of JAX whose own derivative keeps them.
    alike = {"value": ("value",), "gradient": ("gradient", "precision"), "precision": ("gradient", "precision")}
    for kind, entries in found.items():
        places = [faults[other].where(x) for other in alike[kind] if other in faults]
        at = x[entries & ~np.any([*places, np.zeros(x.shape, bool)], axis=0)]
        assert not at.size, f"{kind} at {at[:5]}"
    for fault in faults.values():
        entries = np.any([found[kind] for kind in alike[fault.kind]], axis=0)
        # Some are right by luck where the fault sets in; float64 cannot tell either where all but vanishes.
        assert entries[fault.where(x) & normal].mean() > 0.25


@pytest.mark.parametrize(("op", "name"), DECLARED, ids=lambda p: p if isinstance(p, str) else p.name)
def test_a_check_tells_them_and_passes_where_they_are_not(op, name):
    rule = op.rules[name]
    for fault in rule.rule.faults:
        inside, outside = _split(op, rule.rule.faults, fault)
        kinds = {finding.kind for finding in jaxbp.check_vjp(rule, *inside, level="quick", shapes="keep").findings}
        assert kinds & ({"gradient", "precision"} if fault.kind == "precision" else {fault.kind})
        report = jaxbp.check_vjp(rule, *outside, level="quick", shapes="keep", domain=_away(op, outside))
        assert not report.findings, str(report)


def _split(op, faults, fault):
    """Arguments where the fault is, and arguments where none is."""
    if len(op.arguments) == 1:
        x = points(op)
        anywhere = np.any([f.where(x) for f in faults], axis=0)
        return (x[fault.where(x)],), (x[~anywhere & (np.abs(x) < 80)],)
    if op.name == "neuron":
        w, x = arguments(op)
        return (20 * w, x), (w / 10, x)
    if op.arguments == ("x", "gate"):
        gate = np.linspace(-100, -90, 50, dtype=np.float32) if op.name == "swiglu" else np.linspace(-6, -3, 50)
        x = np.ones(50, np.float32)
        return (x, gate.astype(np.float32)), (x, np.linspace(0.1, 3, 50, dtype=np.float32))
    x, y = arguments(op)
    return (x, x.copy()), (x, y + 0.01)


def _away(op, args):
    """A domain without faults for what the check draws itself."""
    if op.name == "neuron":
        return {"args[0]": (-0.1, 0.1), "args[1]": (-1.0, 1.0)}
    if op.arguments == ("x", "gate"):
        return {"args[1]": (0.1, 3.0)}
    if len(op.arguments) > 1:
        return {}
    return {"args[0]": (0.1, 0.3) if op.domain else (-1.0, 1.0)}

"""The stated accuracy of every rule, sampled: at the points where rules break first, and at 10^5 others."""

import functools
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Rule
from jaxbp.accuracy.exact import exact_vjp
from jaxbp.accuracy.points import hard_points, random_points
from jaxbp.accuracy.summary import summarize
from jaxbp.report.census import read_records

STATED = [
    (op, bound, options)
    for op in jaxbp.OPS
    for bound in op.rules.values()
    for options in op.variants
    if bound.rule.accuracy
]
UNARY = [case for case in STATED if len(case[0].arguments) == 1]
BINARY = [case for case in STATED if len(case[0].arguments) == 2]


def name_of(parameter):
    return parameter.name if hasattr(parameter, "name") else "-".join(f"{k}={v}" for k, v in parameter.items())


def assert_as_stated(op, bound, dtype, args, exact, options=MappingProxyType({})) -> None:
    """Value and gradients for the cotangent 1 are within the stated bounds, and nothing is plainly wrong."""
    y, cts = bound.value_and_vjp(args, np.ones_like(args[0]), **options)
    stated = bound.rule.accuracy.holds(*args, **options)
    args = tuple(x[stated] for x in args)
    for quantity, actual, truth in zip(("value", *(f"ct_{a}" for a in op.arguments)), (y, *cts), exact, strict=True):
        actual, truth = np.asarray(actual)[stated], np.asarray(truth)[stated]
        error = summarize(actual, truth, nan_equal=True)
        at = [x[error.worst_index] for x in args]
        message = f"{quantity} at {at}: {error}"
        assert error.wrong_nans == error.wrong_infinities == error.wrong_zeros == 0, message
        tiny = float(jnp.finfo(dtype).tiny)
        normal = ~(np.abs(truth) < tiny)
        error = summarize(actual[normal], truth[normal], nan_equal=True)
        at = [x[normal][error.worst_index] for x in args]
        assert error.max_ulp <= bound.rule.accuracy.bound(dtype, quantity), f"{quantity} at {at}: {error}"


def float64_reference(op, args, options=MappingProxyType({})):
    with np.errstate(all="ignore"):
        wide = [x.astype(np.float64) for x in args]
        return op.reference(*wide, **options), *op.reference_vjp(np.ones_like(wide[0]), *wide, **options)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("op", "bound", "options"), UNARY, ids=name_of)
def test_gradients_of_one_argument_are_as_accurate_as_stated(op, bound, options, dtype):
    if dtype == "float32":
        x = np.concatenate([hard_points(op, dtype), random_points(dtype, 10**5)])
    else:
        x = np.arange(2**16, dtype=np.uint16).view(jnp.dtype(dtype))
    assert_as_stated(op, bound, dtype, (x,), float64_reference(op, (x,), options), options)


@pytest.mark.parametrize(("op", "bound", "options"), UNARY, ids=name_of)
def test_float64_gradients_are_as_accurate_as_stated(op, bound, options):
    x = np.concatenate([hard_points(op, "float64"), random_points("float64", 2000)])
    x = x[np.isfinite(x)]
    with jax.enable_x64(True):
        y, (ct_x,) = exact_vjp(functools.partial(op.exact, **options), (x,), np.ones_like(x), extended=True)
        assert_as_stated(op, bound, "float64", (x,), (y, ct_x), options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("op", "bound", "options"), BINARY, ids=name_of)
def test_gradients_of_two_arguments_are_as_accurate_as_stated(op, bound, options, dtype):
    args = tuple(random_points(dtype, 10**5, seed) for seed in (1, 2))
    assert_as_stated(op, bound, dtype, args, float64_reference(op, args, options), options)


RECORDS = read_records(Path(__file__).parents[1] / "results")


@pytest.mark.parametrize(
    "record", RECORDS, ids=lambda r: "-".join([r["op"], *map(str, r["options"].values()), r["dtype"]])
)
def test_the_censuses_of_record_prove_what_is_stated(record):
    op = next(op for op in jaxbp.OPS if op.name == record["op"])
    options = "".join(f" --options {name}={value}" for name, value in record["options"].items())
    again = f"jaxbp census {op.name} --dtype {record['dtype']}{options}"
    assert record["op_version"] == op.version, f"This census is of an earlier version of {op.name}; run {again}."
    for name, bound in op.rules.items():
        stated = bound.rule.accuracy
        if stated is None:
            continue
        own = [row for row in record["records"] if row["engine"] == f"rule:{name}"]
        held = [row for row in own if not stated.where or row.get("within") == stated.note]
        assert {row["quantity"] for row in held} == {"value", *(f"ct_{argument}" for argument in op.arguments)}
        for row in held:
            limit = stated.bound(record["dtype"], row["quantity"])
            assert row["max_ulp"] <= limit, (name, row["quantity"], row["max_ulp"], row["worst_args"])
            assert row["wrong_zeros"] == row["wrong_infinities"] == row["wrong_nans"] == 0


def test_a_rule_spoilt_in_one_binade_breaks_its_statement():
    """One part in 10^6 for x in [2, 4), and nowhere else."""

    def bwd(res, ct):
        (x,) = res
        (ct_x,) = jaxbp.sigmoid.default_rule.bwd(res, ct)
        return (jnp.where((x >= 2) & (x < 4), ct_x * (1 + 1e-6), ct_x),)

    rule = jaxbp.sigmoid.default_rule.rule
    spoilt = jaxbp.sigmoid.replace(rules=(Rule(rule.name, rule.fwd, bwd, accuracy=rule.accuracy),))
    x = random_points("float32", 10**5)
    assert_as_stated(jaxbp.sigmoid, jaxbp.sigmoid.default_rule, "float32", (x,), float64_reference(jaxbp.sigmoid, (x,)))
    with pytest.raises(AssertionError, match="ct_x at"):
        assert_as_stated(spoilt, spoilt.default_rule, "float32", (x,), float64_reference(spoilt, (x,)))

"""Exponents of cost: planted ones are found, the dispatch floor is no cost, and real quadratic work shows as such."""

import jax.numpy as jnp
import numpy as np
import pytest
from synthetic import FACTS, time_row

from jaxbp.cases import GROWTH, Case
from jaxbp.declaration import Rule
from jaxbp.measure import plan, task
from jaxbp.ops import OPS
from jaxbp.report import growth
from jaxbp.report.frames import summary_frame

SIZES = [4**i * 1024 for i in range(6)]


def cells(cost, *, engine="autodiff", op="sigmoid", floor_us=5.0):
    """Times of an engine at all sizes: the floor, and what the size costs, with a noise of 1 %."""
    rng = np.random.default_rng(1)
    return [
        time_row(
            op=op,
            case=case,
            n=n,
            engine=engine,
            floor_us=floor_us,
            flops_fwd=n,
            flops_bwd=2 * n,
            samples_us=(floor_us + cost(n)) * (1 + 0.01 * rng.normal(size=9)),
        )
        for case, n in zip(GROWTH, SIZES, strict=True)
    ]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_a_planted_exponent_is_found_beyond_the_floor(exponent):
    found = growth.exponents(summary_frame(cells(lambda n: 100 * (n / 1024) ** exponent), FACTS), "float32").iloc[0]
    assert abs(found["exponent"] - exponent) < max(found["half"], 0.02)
    assert found["half"] < 0.1
    assert found["declared"] == pytest.approx(1)


def test_times_that_are_the_floor_have_no_exponent():
    summary = summary_frame(cells(lambda n: 1e-9 * n), FACTS)
    assert growth.exponents(summary, "float32")["exponent"].isna().all()
    assert growth.exponent_table(summary, "float32")["autodiff"].tolist() == ["n/a"]


def test_engines_are_told_apart_and_too_few_sizes_have_no_row():
    rows = cells(lambda n: 0.1 * n) + cells(lambda n: 1e-4 * n**2, engine="central_difference")
    rows += cells(lambda n: n, op="matmul")[:4]
    summary = summary_frame(rows, FACTS)
    table = growth.exponent_table(summary, "float32")
    assert table["op"].tolist() == ["sigmoid"]
    assert table["operations"].tolist() == ["1.00"]
    assert table["autodiff"][0].startswith(("1.0", "0.99"))
    assert table["central_difference"][0].startswith(("2.0", "1.99"))
    assert growth.has_sizes(summary, "float32")
    assert not growth.has_sizes(summary_frame(rows[:4], FACTS), "float32")


def jacobian_bwd(res, ct):
    """The square's VJP by way of a whole Jacobian, each entry of which is computed."""
    (x,) = res
    return ((jnp.diag(2 * x) + 1e-30 * jnp.sin(x[:, None] * x)) @ ct,)


def test_a_rule_that_forms_a_jacobian_shows_as_quadratic(monkeypatch):
    square = next(op for op in OPS if op.name == "square")
    slow = square.replace(
        name="slow_square", rules=(Rule("jacobian", lambda x: (x * x, (x,)), jacobian_bwd),), elementwise=False
    )
    rows = []
    for name, n in zip(GROWTH, (256, 384, 512, 768, 1024, 1536), strict=True):
        sized = slow.replace(cases=(Case(name, ((n,),), slow.cases[0].draws),))
        monkeypatch.setattr(task, "find_op", lambda name, sized=sized: sized)
        rows += task.measure(plan.Task("slow_square", name, "float32", "jax", ("rule:jacobian", "autodiff"), "growth"))
    facts = {"device": "cpu", "floor_us": 0.0, "precision": "default", "environment": "{}"}
    summary = summary_frame([{**row, **facts} for row in rows], FACTS)
    found = growth.exponents(summary, "float32").set_index("engine")
    measured, declared = (found[column].to_dict()["rule:jacobian"] for column in ("exponent", "declared"))
    assert measured > declared + 0.4
    assert declared == pytest.approx(1)


def test_growth_goes_from_small_towards_memory_in_even_steps():
    for op in OPS:
        counts = [max(int(np.prod(shape)) for shape in case.shapes) for case in op.growth]
        assert counts == sorted(set(counts))
        assert len(counts) == len(GROWTH)
        assert op.growth[0].shapes == op.case("small").shapes
        # Every case can be drawn and run.
        assert op.output(op.growth[1].arguments(np.dtype("float32")), {}).dtype == jnp.float32

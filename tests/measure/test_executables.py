"""The executables that are timed: the same results in every mode, honest residuals, nothing folded away."""

import inspect
import math
import os
import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.declaration import Rule
from jaxbp.engines import Engine, make_engine
from jaxbp.measure.executables import (
    MIN_ENTRIES,
    Executable,
    Residual,
    compile_function,
    compile_modes,
    counted_work,
    planned_memory,
    sample_difference,
)
from jaxbp.measure.plan import ALL_MODES, find_op
from jaxbp.op import Op

#: One of each kind of what may cross between the passes: nothing, the input, the output, both, a mask of bits,
#: integers, a shape, scalars, values that occur twice, constants. The sweep checks every mode of every op before it
#: times it.
CELLS = [
    pytest.param(find_op(op), name, id=f"{op}-{name}")
    for op, name in (
        ("add", "rule:distribute"),
        ("square", "autodiff"),
        ("sigmoid", "rule:textbook"),
        ("exp", "autodiff"),
        ("relu", "autodiff"),
        ("maximum", "rule:split"),
        ("gelu", "autodiff"),
        ("linear", "rule:transpose"),
        ("softmax_cross_entropy", "autodiff"),
        ("softmax_cross_entropy", "rule:others"),
        ("multiclass_hinge", "autodiff"),
        ("l2_penalty", "rule:double"),
        ("layer_norm", "rule:statistics"),
        ("neuron", "rule:stable"),
        ("rational", "autodiff"),
    )
]


def data(op: Op, engine: Engine) -> tuple[tuple[Any, ...], Any]:
    """Arguments and cotangent of the small case, as the engine takes them."""
    case, dtype = op.case("small"), np.dtype("float32")
    args = case.arguments(dtype)
    return engine.prepare(args), engine.prepare(case.cotangent(op.output(args, {}).shape, dtype))


def compiled(op: Op, name: str, modes: Any = ALL_MODES) -> dict[Any, Executable]:
    engine = make_engine(op, name)
    return compile_modes(engine, *data(op, engine), modes)


def assert_close(actual: Any, expected: Any) -> None:
    """Equal but for the rounding that fusion changes, measured against the largest entry."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6 * float(jnp.max(jnp.abs(expected))))


@pytest.mark.parametrize(("op", "name"), CELLS)
def test_every_mode_gives_what_one_executable_gives(op, name):
    executables = compiled(op, name)
    assert set(executables) == set(ALL_MODES)
    y, cts = executables["fwd_bwd"].call()
    assert_close(executables["fwd"].call(), y)
    assert_close(executables["fwd_res"].call()[0], y)
    total, beside = executables["summed"].call()
    ct = data(op, make_engine(op, name))[1]
    np.testing.assert_allclose(total, jnp.sum(y * ct), rtol=1e-5, atol=1e-5 * float(jnp.sum(jnp.abs(y * ct))))
    for separate in (executables["bwd"].call(), beside):
        assert len(separate) == len(cts) == len(op.arguments)
        for actual, expected in zip(separate, cts, strict=True):
            if expected is None:
                assert actual is None
                continue
            assert float(jnp.max(jnp.abs(expected))) > 0
            assert_close(actual, expected)


@pytest.mark.parametrize("name", ["forward_difference", "central_difference"])
def test_an_engine_without_passes_has_one_executable(name):
    assert set(compiled(jaxbp.sigmoid, name)) == {"fwd_bwd"}


@pytest.mark.parametrize("modes", [("fwd",), ("fwd_bwd",), ("fwd", "fwd_bwd"), ("summed",)])
def test_only_the_modes_asked_for_are_compiled(modes):
    assert set(compiled(jaxbp.sigmoid, "rule:stable", modes)) == set(modes)


N = 1024


@pytest.mark.parametrize(
    ("op", "name", "expected"),
    [
        pytest.param(jaxbp.add, "rule:distribute", 0, id="nothing"),
        pytest.param(jaxbp.multiply, "rule:swap", 0, id="inputs"),
        pytest.param(jaxbp.sigmoid, "rule:stable", 0, id="input"),
        pytest.param(jaxbp.exp, "rule:output", 4 * N, id="exp-output"),
        pytest.param(jaxbp.sigmoid, "rule:textbook", 4 * N, id="sigmoid-output"),
        pytest.param(jaxbp.neuron, "rule:stable", 4 * 64, id="neuron-dot"),
        pytest.param(jaxbp.matmul, "autodiff", 0, id="matmul-autodiff"),
    ],
)
def test_residual_bytes_are_what_is_kept_beyond_the_inputs(op, name, expected):
    executables = compiled(op, name, ("fwd_res", "bwd"))
    assert executables["fwd_res"].residual_bytes == expected
    assert executables["bwd"].residual_bytes is None


def test_autodiff_of_sigmoid_keeps_something():
    kept = compiled(jaxbp.sigmoid, "autodiff")["fwd_res"].residual_bytes
    assert kept is not None
    assert kept >= 4 * N


def odd_fwd(x):
    y = jnp.exp(x)
    # An input, the output twice, an intermediate twice, a mask, a constant.
    slope, mask = y * y, x > 0
    return y, (x, y, y, slope, slope, mask, jnp.float32(2.0))


def odd_bwd(res, ct):
    x, y, again, slope, same, mask, two = res
    return (ct * jnp.where(mask, x + y + again, slope + same) * two,)


def test_each_residual_is_kept_once():
    op = jaxbp.exp.replace(rules=(Rule("odd", odd_fwd, odd_bwd),))
    executables = compiled(op, "rule:odd")
    # y and the slope in float32, the mask in bytes; the constant is no data.
    kept = executables["fwd_res"].residual_bytes
    assert kept is not None
    assert kept - (4 + 4 + 1) * N in (0, 4)
    _, outputs = executables["fwd_res"].call()
    # The output itself is not returned a second time.
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(outputs)) == kept - 4 * N
    (x,), ct = data(op, make_engine(op, "rule:odd"))
    (expected,) = odd_bwd(odd_fwd(x)[1], ct)
    assert_close(executables["bwd"].call()[0], expected)


def kept_by(op: Op, name: str) -> list[Residual]:
    residuals = compiled(op, name, ("fwd_res",))["fwd_res"].residuals
    assert residuals is not None
    return list(residuals)


def test_each_residual_says_where_it_comes_from():
    op = jaxbp.exp.replace(rules=(Rule("odd", odd_fwd, odd_bwd),), stock=odd_stock)
    residuals = {name: kept_by(op, name) for name in ("rule:odd", "autodiff")}
    output, *others = residuals["rule:odd"]
    assert (output.shape, output.dtype, output.bytes, output.where) == ((N,), "float32", 4 * N, "output")
    assert {residual.dtype: residual.bytes for residual in others if residual.bytes > 4} == {
        "float32": 4 * N,
        "bool": N,
    }
    first = inspect.getsourcelines(odd_stock)[1]
    lines = {residual.where for residual in residuals["autodiff"]}
    # The sine's slope comes from line 2 of the function, and no line names a folder.
    assert f"test_executables.py:{first + 1} (odd_stock)" in lines
    assert not any("/" in line for line in lines)


def odd_stock(x):
    slow = jnp.sin(x)
    return slow * slow


def test_a_function_of_jax_alone_is_named_by_its_primitive():
    (residual,) = kept_by(jaxbp.sin, "autodiff")
    assert residual.where == "cos"


def test_what_a_function_closes_over_is_no_residual():
    weights = np.linspace(1, 2, N, dtype=np.float32)
    op = jaxbp.exp.replace(stock=lambda x: jnp.exp(x) * weights)
    executables = compiled(op, "autodiff")
    assert executables["fwd_res"].residual_bytes == 4 * N  # exp(x), and not the weights.
    assert_close(executables["bwd"].call()[0], executables["fwd_bwd"].call()[1][0])


def test_memory_by_hand():
    n = 2**20

    def sorted_twice(x):
        # Sorting cannot be fused: its result is held in temporary memory until the sum is taken.
        return jnp.sum(jnp.sort(x) * x)

    executable = compile_function(sorted_twice, jnp.ones(n))
    assert executable.temp_bytes is not None
    assert executable.peak_bytes is not None
    assert 4 * n <= executable.temp_bytes < 9 * n
    assert executable.peak_bytes == 4 * n + 4 + executable.temp_bytes
    # One array in, one out, and nothing else.
    negated = compile_function(jnp.negative, jnp.ones(n))
    assert (negated.temp_bytes, negated.peak_bytes) == (0, 8 * n)
    assert negated.xla_bytes == 8 * n


def stats(**changes: Any) -> types.SimpleNamespace:
    """What a backend says of a compiled function; None takes a field away."""
    fields = {"argument": 10, "output": 20, "temp": 7, "alias": 5, **changes}
    known = {f"{name}_size_in_bytes": count for name, count in fields.items() if count is not None}
    return types.SimpleNamespace(memory_analysis=lambda: types.SimpleNamespace(**known))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (stats(), (7, 32)),
        (stats(temp=0), (0, 25)),
        (stats(temp=None), (None, None)),
        (stats(alias=None), (7, None)),
        (stats(output=None), (7, None)),
        (types.SimpleNamespace(memory_analysis=lambda: None), (None, None)),
    ],
)
def test_memory_that_a_backend_does_not_say_is_unknown(given, expected):
    assert planned_memory(given) == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"flops": 3.0, "bytes accessed": 4.0, "utilization0{}": 1.0}, (3, 4)),
        ({"flops": 0.0, "bytes accessed": 4.0}, (0, 4)),
        ({"bytes accessed": 4.0}, (None, 4)),
        ({"flops": -1.0}, (None, None)),
        ({}, (None, None)),
        (None, (None, None)),
    ],
)
def test_work_that_a_backend_does_not_count_is_unknown(counts, expected):
    given = types.SimpleNamespace(cost_analysis=lambda: counts, as_text=lambda: "ENTRY %main (x: f32[]) -> f32[] {")
    assert counted_work(given) == expected


def test_a_loop_that_xla_takes_for_one_pass_is_not_counted():
    a = jnp.ones((32, 32))

    def power(a):
        return jax.lax.fori_loop(0, 100, lambda _, x: x @ a, a)

    counted = (jax.jit(power).lower(a).compile().cost_analysis() or {})["flops"]
    assert counted < 50 * 2 * 32**3  # Or XLA has learnt to count.
    executable = compile_function(power, a)
    assert (executable.xla_flops, executable.xla_bytes) == (None, None)


def test_xla_counts_the_operations_of_a_product():
    a, b = jnp.ones((32, 64)), jnp.ones((64, 16))
    executable = compile_function(jnp.matmul, a, b)
    assert executable.xla_flops == 2 * 32 * 64 * 16
    assert executable.xla_bytes == 4 * (32 * 64 + 64 * 16 + 32 * 16)


def data_in(executable: Executable) -> tuple[int, int]:
    """The parameters of what was compiled, and the entries of its largest constant."""
    compiled: Any = executable.apply
    text = compiled.as_text()
    entry = text[text.index("ENTRY") :]
    shapes = re.findall(r"= \w+\[([\d,]*)\]\S* constant\(", text)
    sizes = [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
    return len(re.findall(r" parameter\(\d+\)", entry)), max(sizes, default=0)


@pytest.mark.parametrize(
    ("op", "name", "expected"),
    [
        # Arguments and cotangent; what an executable does not need is not among its parameters.
        (jaxbp.sigmoid, "rule:stable", {"fwd": 1, "fwd_res": 1, "bwd": 2, "fwd_bwd": 2}),
        (jaxbp.sigmoid, "autodiff", {"fwd": 1, "fwd_res": 1, "fwd_bwd": 2}),
        (jaxbp.exp, "rule:output", {"fwd": 1, "fwd_res": 1, "bwd": 2, "fwd_bwd": 2}),
        (jaxbp.multiply, "rule:swap", {"fwd": 2, "fwd_res": 2, "bwd": 3, "fwd_bwd": 3}),
        (jaxbp.matmul, "rule:transpose", {"fwd": 2, "fwd_res": 2, "bwd": 3, "fwd_bwd": 3}),
        (jaxbp.sigmoid, "central_difference", {"fwd_bwd": 2}),
        (jaxbp.matmul, "central_difference", {"fwd_bwd": 3}),
    ],
    ids=lambda value: value.name if isinstance(value, Op) else value if isinstance(value, str) else "",
)
def test_data_are_arguments(op, name, expected):
    executables = compiled(op, name)
    assert {mode: data_in(executables[mode])[0] for mode in expected} == expected
    # Loop counters of matmul's 256 perturbed entries a matrix are constants, arguments of 1024 entries are not.
    assert all(data_in(executable)[1] <= 256 for executable in executables.values())


def test_the_check_above_sees_closures():
    engine = make_engine(jaxbp.sigmoid, "rule:stable")
    args, ct = data(jaxbp.sigmoid, engine)
    assert data_in(compile_function(lambda: engine.fwd_bwd(args, ct))) == (0, N)
    parameters, largest = data_in(compile_function(lambda ct: engine.fwd_bwd(args, ct), ct))
    assert parameters == 1
    assert largest == N


def test_lowering_and_compiling_are_timed_apart():
    executable = compile_function(jnp.sin, jnp.ones(3))
    assert (executable.lower_ms or 0) > 0
    assert (executable.compile_ms or 0) > 0
    np.testing.assert_array_equal(executable.call(), jnp.sin(jnp.ones(3)))


def sampled_small_matmul(kind: str, seconds: float = 0.0):
    engine = make_engine(jaxbp.matmul, f"{kind}_difference")
    args, ct = data(jaxbp.matmul, engine)
    sampled = sample_difference(jaxbp.matmul, engine, args, ct, seconds, np.random.default_rng(0))
    return engine, args, ct, sampled


@pytest.mark.parametrize(("kind", "per_entry"), [("forward", 1), ("central", 2)])
def test_a_sampled_gradient_is_part_of_the_full_one(kind, per_entry):
    engine, args, ct, sampled = sampled_small_matmul(kind)
    assert sampled is not None
    y, cts = sampled.executable.call()
    full_y, full = jax.jit(engine.fwd_bwd)(args, ct)
    assert_close(y, full_y)
    for some, everything, entries in zip(cts, full, sampled.entries, strict=True):
        assert entries is not None
        assert len(set(entries.tolist())) == entries.size == MIN_ENTRIES
        assert_close(some, everything.ravel()[entries])
    # One evaluation for the value; then 512 entries, of which 8 were taken.
    assert sampled.scale == (1 + per_entry * 512) / (1 + per_entry * 2 * MIN_ENTRIES)


def test_more_time_samples_more_entries():
    # The clock decides how many: as many as fit, but not all 512.
    each = 1e-3
    calls = iter(range(1000))

    class Ticking:
        @staticmethod
        def perf_counter() -> float:
            return next(calls) * each

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxbp.measure.executables.time", Ticking)
        *_, sampled = sampled_small_matmul("central", seconds=600 * each)
        *_, everything = sampled_small_matmul("central", seconds=1026 * each)
    assert sampled is not None
    distinct = [len(set(entries.tolist())) for entries in sampled.entries if entries is not None]
    assert distinct == [100, 100]  # 600 evaluations, counted as 1 + 2 an entry: 200 entries, half each argument.
    assert sampled.scale == 1025 / 401
    assert everything is None


def test_nothing_is_sampled_where_all_fits_or_there_is_nothing_to_perturb():
    assert sampled_small_matmul("central", seconds=1e9)[-1] is None
    engine = make_engine(jaxbp.sigmoid, "central_difference")
    args, ct = data(jaxbp.sigmoid, engine)
    assert sample_difference(jaxbp.sigmoid, engine, args, ct, 0.0, np.random.default_rng(0)) is None
    engine = make_engine(jaxbp.matmul, "autodiff")
    args, ct = data(jaxbp.matmul, engine)
    assert sample_difference(jaxbp.matmul, engine, args, ct, 0.0, np.random.default_rng(0)) is None


def test_programs_are_told_apart_by_what_they_compute():
    def programs(op, name):
        engine = make_engine(op, name)
        return {mode: cell.program for mode, cell in compile_modes(engine, *data(op, engine), ALL_MODES).items()}

    # Autodiff's gradients are those written by hand, but for what add does for subnormal numbers, in its value alone.
    assert programs(jaxbp.matmul, "rule:transpose") == programs(jaxbp.matmul, "autodiff")
    by_hand, autodiff = programs(jaxbp.add, "rule:distribute"), programs(jaxbp.add, "autodiff")
    assert {mode for mode in ALL_MODES if by_hand[mode] == autodiff[mode]} == {"bwd"}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="for one core XLA divides nothing")
@pytest.mark.parametrize("op", [jaxbp.add, jaxbp.sigmoid, jaxbp.exp], ids=repr)
def test_xla_divides_rules_between_threads_where_it_does_not_divide_stock(op):
    """As docs/measurement.md tells; between these sizes a rule's call waits for a thread."""

    def is_divided(f, n):
        rows = [jax.ShapeDtypeStruct((n,), jnp.float32)] * len(op.arguments)
        return "outer_dimension_partitions" in str(jax.jit(f).lower(*rows).compile().as_text())

    assert [(is_divided(op, n), is_divided(op.stock, n)) for n in (1024, 4096, 2**18)] == [
        (False, False),
        (True, False),
        (True, True),
    ]

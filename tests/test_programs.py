"""Fingerprints: the same for one program under other names, others for any other program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.programs import fingerprint

ROWS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def compiled(f, *args, **options):
    return fingerprint(str(jax.jit(f, **options).lower(*args).compile().as_text()))


def scaled_sum(x):
    return jnp.sum(jnp.sin(x) * 2.0, axis=0)


def test_names_and_lines_do_not_count():
    def under_another_name(others):
        doubled = 2.0 * jnp.sin(others)
        return jnp.sum(doubled, axis=0)

    assert compiled(scaled_sum, ROWS) == compiled(under_another_name, ROWS)
    assert compiled(jax.named_call(scaled_sum, name="a } b"), ROWS) == compiled(scaled_sum, ROWS)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: jnp.sum(jnp.cos(x) * 2.0, axis=0),
        lambda x: jnp.sum(jnp.sin(x) * 3.0, axis=0),
        lambda x: jnp.sum(jnp.sin(x) * 2.0, axis=1),
        lambda x: (scaled_sum(x), x + 1),
    ],
)
def test_what_is_computed_counts(other):
    assert compiled(other, ROWS) != compiled(scaled_sum, ROWS)


def test_shapes_dtypes_and_arguments_that_are_written_over_count():
    found = {
        compiled(jnp.negative, x, **options)
        for x in (ROWS, ROWS[:2], ROWS.astype(np.float16))
        for options in ({}, {"donate_argnums": 0})
    }
    assert len(found) == 6


def test_functions_that_are_called_back_are_not_known():
    def calls(f):
        return lambda x: jax.pure_callback(f, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    assert compiled(calls(np.sin), ROWS) is compiled(calls(np.cos), ROWS) is None


def test_without_a_text_nothing_is_known():
    assert fingerprint("") is None


def test_constants_that_the_text_leaves_out_are_not_known():
    constants = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert compiled(lambda x: x + constants[:4], ROWS[0, 0]) is not None
    assert compiled(lambda x: x + constants, ROWS[0, 0]) is None

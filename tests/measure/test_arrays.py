"""What is copied of an array on a device tells as much of it as the whole does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import make_engine
from jaxbp.measure import arrays

JAX = make_engine(jaxbp.exp, "autodiff")


@pytest.fixture
def device(monkeypatch):
    """The processor passes for a device beside it."""
    monkeypatch.setattr(arrays, "_on_device", lambda x: isinstance(x, jax.Array))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int32", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (5, 20_003)], ids=str)
def test_any_entry_that_is_changed_on_a_device_changes_the_checksum(device, dtype, shape):
    with jax.enable_x64(True):
        x = jnp.asarray(np.arange(int(np.prod(shape))).reshape(shape) % 251, jnp.dtype(dtype))
        before = arrays.checksum(JAX, x)
        assert before == arrays.checksum(JAX, x + jnp.zeros_like(x))
        for i in {0, x.size // 3, x.size - 1} if x.size else ():
            entry = x.reshape(-1)[i]
            changed = x.reshape(-1).at[i].set(~entry if dtype == "bool" else -entry + 1).reshape(shape)
            assert arrays.checksum(JAX, changed) != before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("entries", [None, np.array([0, 3, 11])])
def test_entries_are_the_same_wherever_an_array_lies(device, dtype, entries):
    x = np.arange(12.0).reshape(3, 4).astype(jnp.dtype(dtype))
    expected = x.reshape(-1) if entries is None else x.reshape(-1)[entries]
    for of in (x, jnp.asarray(x)):
        actual = arrays.entries_of(JAX, of, entries)
        assert type(actual) is np.ndarray
        np.testing.assert_array_equal(actual, expected)


def test_no_more_is_copied_of_an_array_on_a_device_than_is_looked_at(device):
    copied = []
    engine = dataclasses.replace(JAX, finish=lambda x: copied.append(x.size) or np.asarray(x))
    x = jnp.arange(1e6)
    arrays.checksum(engine, x)
    arrays.entries_of(engine, x, np.array([5]))
    assert copied == [arrays.LOOKED_AT, 1]


def test_only_what_is_the_engines_own_is_handed_to_it():
    """torch's tensors know how to become NumPy's arrays; those do not."""
    engine = dataclasses.replace(JAX, finish=lambda x: np.asarray(x.addressable_data(0)))
    for dtype in ("float32", "bfloat16", "bool"):
        x = jnp.arange(100).astype(dtype)
        assert arrays.checksum(engine, x) == arrays.checksum(JAX, x)
        np.testing.assert_array_equal(arrays.entries_of(engine, x, np.array([3])), x[3:4])


def test_torch_too():
    """On a GPU where torch finds one."""
    pytest.importorskip("torch", reason="torch is an optional extra")
    engine = make_engine(jaxbp.exp, "torch")
    for dtype in ("float32", "bfloat16", "int32", "bool"):
        x = (np.arange(100_003) % 251).astype(jnp.dtype(dtype))
        tensor = engine.prepare(x)
        np.testing.assert_array_equal(
            arrays.entries_of(engine, tensor, np.array([0, 99, 100_002])), x[[0, 99, 100_002]]
        )
        before = arrays.checksum(engine, tensor)
        tensor[7] = 0
        assert arrays.checksum(engine, tensor) != before

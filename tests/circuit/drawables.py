"""Functions that the tests of circuits draw: those of the notes, and some that lose digits."""

import jax
import jax.numpy as jnp


def product_of_sum(x, y, z):
    q = x + y
    return q * z


def neuron_of_gates(w0, w1, w2, x0, x1):
    dot = w0 * x0 + w1 * x1 + w2
    return 1.0 / (1.0 + jnp.exp(dot * -1.0))


def neuron_of_sigmoid(w0, w1, w2, x0, x1):
    dot = w0 * x0 + w1 * x1 + w2
    return jax.nn.sigmoid(dot)


def rational(x, y):
    sigy = jax.nn.sigmoid(y)
    num = x + sigy
    sigx = jax.nn.sigmoid(x)
    xpy = x + y
    xpysqr = xpy**2
    den = sigx + xpysqr
    invden = 1.0 / den
    return num * invden


def patterns(x, y, z, w):
    """Add distributes, max routes, multiply swaps."""
    product = x * y
    largest = jnp.maximum(z, w)
    total = product + largest
    return total * 2.0


def layer(x, w, b):
    h = jax.nn.relu(x @ w + b)
    return jnp.sum(h * h)


def cross_entropy(logits, labels):
    shifted = logits - jnp.max(logits, axis=1, keepdims=True)
    log_sum = jnp.log(jnp.sum(jnp.exp(shifted), axis=1))
    hits = jnp.sum(jnp.where(labels[:, None] == jnp.arange(logits.shape[1]), shifted, 0.0), axis=1)
    return jnp.mean(log_sum - hits)


def naive_softmax(x):
    e = jnp.exp(x)
    total = jnp.sum(e)
    return e / total


def naive_variance(x):
    square_of_mean = jnp.mean(x) ** 2
    mean_of_squares = jnp.mean(x**2)
    return mean_of_squares - square_of_mean


@jax.jit
def folded(u):
    return jnp.sin(u) * u


def hidden(x):
    return folded(x) + x


def guarded_logarithm(x):
    """What `where` does not take has no digits to lose."""
    unused = jnp.log(x - x)
    return jnp.where(x > 0, x * x, unused)


def near_one(x, w):
    """One entry of many loses its digits, in a difference, and is then added up with others."""
    s = jax.nn.sigmoid(x)
    rest = 1.0 - s
    scaled = rest * jnp.array([0.0, 0.0, 1.0])
    return jnp.sum(scaled) * w

"""Show it: values, gradients and their errors through the gates of any JAX function."""

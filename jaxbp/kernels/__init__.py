"""Kernels in Pallas, for GPUs and TPUs: further rules of the ops where a kernel spares the most memory traffic."""

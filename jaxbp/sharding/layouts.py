"""Layers that are divided by hand under shard_map: what lies where, and what the rule and autodiff each do then."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxbp.accuracy.bounds import a_priori_bounds
from jaxbp.engines import reference
from jaxbp.op import Op
from jaxbp.ops.fused import linear_cross_entropy
from jaxbp.ops.linear import linear, matmul
from jaxbp.ops.losses import softmax_cross_entropy
from jaxbp.ops.objectives import softmax_objective
from jaxbp.sharding.ways import AXIS, Problem, powers_of_two


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layer on several devices.

    Attributes:
        name: what reports call it.
        op: the layer.
        specs: how its arguments lie on the mesh.
        out: how its output does.
        options: of the op.
        combine: how the output follows from those of all devices, where it does not lie on them in parts.
        cut: which axes of the arguments grow with the number of devices where the work per device stays the same, as
            (argument, axis).
    """

    name: str
    op: Op
    specs: tuple[P, ...]
    out: P
    cut: tuple[tuple[int, int], ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    combine: Callable[[Any, str], Any] | None = None

    def shapes(self, case: str, times: int = 1) -> tuple[tuple[int, ...], ...]:
        """Those of a case of the op, with the axes that grow so many times as long."""
        return tuple(
            tuple(n * times if (i, axis) in self.cut else n for axis, n in enumerate(shape))
            for i, shape in enumerate(self.op.case(case).shapes)
        )

    def spread(self, f: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
        """The layer on a mesh, as a function of all data; on one device without."""
        if mesh is None:
            return f

        def part(*args: Any) -> Any:
            y = f(*args, **self.options)
            return y if self.combine is None else self.combine(y, AXIS)

        return jax.shard_map(part, mesh=mesh, in_specs=self.specs, out_specs=self.out)


_SPREAD = {"axis_name": AXIS}

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("linear, rows of x", linear, (P(AXIS), P(), P()), P(AXIS), ((0, 0),)),
        Layout("linear, columns of w", linear, (P(), P(None, AXIS), P(AXIS)), P(None, AXIS), ((1, 1), (2, 0))),
        Layout(
            "matmul, columns of a and rows of b",
            matmul,
            (P(None, AXIS), P(AXIS)),
            P(),
            ((0, 1), (1, 0)),
            combine=jax.lax.psum,
        ),
        Layout("linear, rows of x and of w", linear, (P(AXIS), P(AXIS), P()), P(AXIS), ((0, 0),), _SPREAD),
        Layout("softmax_cross_entropy, classes", softmax_cross_entropy, (P(None, AXIS), P()), P(), ((0, 1),), _SPREAD),
        Layout(
            "linear_cross_entropy, tokens", linear_cross_entropy, (P(AXIS), P(), P(AXIS)), P(AXIS), ((0, 0), (2, 0))
        ),
        Layout(
            "linear_cross_entropy, classes", linear_cross_entropy, (P(), P(None, AXIS), P()), P(), ((1, 1),), _SPREAD
        ),
        # A step of training the notes' linear classifier.
        Layout(
            "softmax_objective, rows of x",
            softmax_objective,
            (P(AXIS), P(), P(AXIS), P()),
            P(),
            ((0, 0), (2, 0)),
            combine=jax.lax.pmean,
        ),
    )
}


def pose_layout(layout: Layout, case: str, times: int = 1, *, exact: bool = True) -> Problem:
    """The problem of a layout at a case of its op, so many times as large; without its truth if not `exact`."""
    rng = np.random.default_rng(times)
    op = layout.op
    args = op.case(case).drawn(rng, np.dtype("float32"), layout.shapes(case, times))
    ct = powers_of_two(rng, op.output(args, {}).shape)
    y, cts = reference(op, args, ct) if exact else (None, (None,) * len(args))
    bounds = a_priori_bounds(op, args, ct) if exact else (None,) * (1 + len(args))
    single = (False,) * (1 + len(args))
    return Problem(args, ct, (y, *cts), bounds, single, layout.specs, layout.out, layout.spread)

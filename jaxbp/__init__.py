"""Hand-written gradients for JAX, each compared with autodiff, differences and NumPy in accuracy and speed."""

import builtins
import importlib
from typing import TYPE_CHECKING, Any

from jaxbp import ops as ops
from jaxbp.accuracy.ulp import ulp_error as ulp_error
from jaxbp.declaration import Rule as Rule
from jaxbp.engines import engine_names as engine_names
from jaxbp.errors import import_extra
from jaxbp.op import Op as Op
from jaxbp.ops import OPS as OPS
from jaxbp.ops.activations import relu as relu
from jaxbp.ops.activations import sigmoid as sigmoid
from jaxbp.ops.activations import tanh as tanh
from jaxbp.ops.arithmetic import add as add
from jaxbp.ops.arithmetic import divide as divide
from jaxbp.ops.arithmetic import multiply as multiply
from jaxbp.ops.arithmetic import negative as negative
from jaxbp.ops.arithmetic import reciprocal as reciprocal
from jaxbp.ops.arithmetic import scale as scale
from jaxbp.ops.arithmetic import shift as shift
from jaxbp.ops.arithmetic import subtract as subtract
from jaxbp.ops.attention import attention as attention
from jaxbp.ops.attention import padded_attention as padded_attention
from jaxbp.ops.exponential import exp as exp
from jaxbp.ops.exponential import expm1 as expm1
from jaxbp.ops.exponential import log as log
from jaxbp.ops.exponential import log1p as log1p
from jaxbp.ops.exponential import logit as logit
from jaxbp.ops.expressions import neuron as neuron
from jaxbp.ops.expressions import rational as rational
from jaxbp.ops.expressions import scaled_sum as scaled_sum
from jaxbp.ops.extrema import max as max
from jaxbp.ops.extrema import min as min
from jaxbp.ops.fused import linear_cross_entropy as linear_cross_entropy
from jaxbp.ops.fused import linear_relu as linear_relu
from jaxbp.ops.gated import gelu as gelu
from jaxbp.ops.gated import mish as mish
from jaxbp.ops.gated import silu as silu
from jaxbp.ops.gated_units import geglu as geglu
from jaxbp.ops.gated_units import swiglu as swiglu
from jaxbp.ops.implicit import kepler as kepler
from jaxbp.ops.layers import conv2d as conv2d
from jaxbp.ops.layers import embedding as embedding
from jaxbp.ops.linear import linear as linear
from jaxbp.ops.linear import matmul as matmul
from jaxbp.ops.losses import l2_penalty as l2_penalty
from jaxbp.ops.losses import multiclass_hinge as multiclass_hinge
from jaxbp.ops.losses import softmax_cross_entropy as softmax_cross_entropy
from jaxbp.ops.losses import squared_error as squared_error
from jaxbp.ops.mean_losses import mean_linear_cross_entropy as mean_linear_cross_entropy
from jaxbp.ops.normalization import layer_norm as layer_norm
from jaxbp.ops.normalization import rms_norm as rms_norm
from jaxbp.ops.normalization import rms_norm_linear as rms_norm_linear
from jaxbp.ops.objectives import hinge_objective as hinge_objective
from jaxbp.ops.objectives import softmax_objective as softmax_objective
from jaxbp.ops.piecewise import absolute as absolute
from jaxbp.ops.piecewise import clip as clip
from jaxbp.ops.piecewise import maximum as maximum
from jaxbp.ops.piecewise import minimum as minimum
from jaxbp.ops.piecewise import where as where
from jaxbp.ops.powers import cbrt as cbrt
from jaxbp.ops.powers import hypot as hypot
from jaxbp.ops.powers import power as power
from jaxbp.ops.powers import rsqrt as rsqrt
from jaxbp.ops.powers import sqrt as sqrt
from jaxbp.ops.powers import square as square
from jaxbp.ops.rectifiers import elu as elu
from jaxbp.ops.rectifiers import leaky_relu as leaky_relu
from jaxbp.ops.reductions import log_softmax as log_softmax
from jaxbp.ops.reductions import logsumexp as logsumexp
from jaxbp.ops.reductions import softmax as softmax
from jaxbp.ops.scans import cumlogsumexp as cumlogsumexp
from jaxbp.ops.scans import cumsum as cumsum
from jaxbp.ops.softplus import log_sigmoid as log_sigmoid
from jaxbp.ops.softplus import softplus as softplus
from jaxbp.ops.sums import mean as mean
from jaxbp.ops.sums import norm as norm
from jaxbp.ops.sums import sum as sum
from jaxbp.ops.sums import var as var
from jaxbp.ops.trigonometric import arctan as arctan
from jaxbp.ops.trigonometric import cos as cos
from jaxbp.ops.trigonometric import sin as sin

if TYPE_CHECKING:
    from jaxbp.accuracy.exact import exact_value as exact_value
    from jaxbp.accuracy.exact import exact_vjp as exact_vjp
    from jaxbp.check.run import check_vjp as check_vjp
    from jaxbp.circuit.draw import draw_circuit as draw_circuit
    from jaxbp.report.function import bench_vjp as bench_vjp
    from jaxbp.report.load import load_runs as load_runs

__version__ = "0.1.0"

#: `from jaxbp import *` leaves Python's own `sum`, `max` and `min` alone. Computed, which pyright does not
#: follow: a list would name every op once more.
__all__ = [name for name in globals() if not name.startswith("_") and not hasattr(builtins, name)]  # pyright: ignore


#: Where these live: they need python-flint or pandas, which `import jaxbp` does not bring in.
_ON_FIRST_USE = {
    "exact_value": "jaxbp.accuracy.exact",
    "exact_vjp": "jaxbp.accuracy.exact",
    "check_vjp": "jaxbp.check.run",
    "bench_vjp": "jaxbp.report.function",
    "draw_circuit": "jaxbp.circuit.draw",
    "load_runs": "jaxbp.report.load",
}
#: What their modules import outright, of the extra `bench`.
_PACKAGES = {"bench_vjp": ("pandas", "scipy"), "load_runs": ("pandas", "scipy")}


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        for package in _PACKAGES.get(name, ()):
            import_extra(package, "bench")
        return getattr(importlib.import_module(_ON_FIRST_USE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What an option of the compiler gains: a gradient compiled with it and without, in the same rounds."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxbp.engines import Engine
from jaxbp.measure.executables import Executable, compile_function
from jaxbp.measure.timer import Budget, interleave
from jaxbp.measure.verdict import Side, compare_sides

Row = dict[str, Any]

#: By platform the options that are tried, as `jax.jit(f, compiler_options=...)` takes them.
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    # XLA takes vectors of 256 bits unless told otherwise, also where a processor has those of 512.
    "cpu": ({"xla_cpu_prefer_vector_width": 512},),
}


def option_rows(
    engine: Engine, plain: Executable, args: tuple[Any, ...], ct: Any, budget: Budget, rng: np.random.Generator
) -> Iterator[Row]:
    """One row per option of this platform: the time of value and gradient with it over that of `plain`, without.

    Where the compiler does not take the option, `status` is `failed` and `reason` says what it says.
    """
    for option in OPTIONS.get(jax.default_backend(), ()):
        about = {"kind": "option", "engine": engine.name, "option": ", ".join(f"{k}={v}" for k, v in option.items())}
        try:
            sides = [compile_function(engine.fwd_bwd, args, ct, options=option), plain]
        except Exception as error:  # XLA's has no class of its own.
            yield {**about, "status": "failed", "reason": str(error).splitlines()[0][:500]}
            continue
        results = [jax.tree.leaves(side.call()) for side in sides]
        taken = interleave({i: side.call for i, side in enumerate(sides)}, budget, rng, {0: 1})
        ratio, verdict = compare_sides(*(Side(taken[i].seconds, taken[i].cores) for i in (0, 1)), paired=True)
        yield {
            **about,
            **{f"ratio{end}": x for end, x in zip(("", "_low", "_high"), dataclasses.astuple(ratio), strict=True)},
            "verdict": verdict,
            "rounds": len(taken[0].seconds),
            "same_results": "yes" if _alike(*results) else "no",
            "status": "ok",
            "reason": "",
        }


def _alike(first: list[jax.Array], second: list[jax.Array]) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))

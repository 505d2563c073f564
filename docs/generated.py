"""The generated parts of pages: a line `<!-- generated: NAME -->` is replaced by what `PARTS[NAME]` makes."""

import functools
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxbp import ops
from jaxbp.accuracy.census import DTYPES
from jaxbp.cases import VOCABULARY
from jaxbp.declaration import Accuracy, Entries, Kink, shown
from jaxbp.errors import ResultsError
from jaxbp.measure.ahead import TARGETS
from jaxbp.measure.machine import computer
from jaxbp.measure.plan import LEVELS
from jaxbp.op import Op
from jaxbp.ops import OPS
from jaxbp.report import compare_errors, compare_report, compare_times
from jaxbp.report.ahead import AHEAD_COLUMNS, recorded_ahead, recorded_beside_times
from jaxbp.report.compare import CHANGE_COLUMNS
from jaxbp.report.frames import ACCURACY_COLUMNS, SUMMARY_COLUMNS
from jaxbp.report.function import FUNCTION_COLUMNS
from jaxbp.report.header import holds_one, of_one_program
from jaxbp.report.load import LONG_COLUMNS, find_runs
from jaxbp.report.options import OPTION_COLUMNS
from jaxbp.report.planted import recorded_planted
from jaxbp.report.proof import COMPARISON_COLUMNS, readme_proof
from jaxbp.report.readme import (
    measured,
    memory,
    newest_at_level,
    newest_of_case,
    newest_run,
    newest_with_accelerators,
    reached,
    readme_census,
    where,
)
from jaxbp.report.run import newest_record, read_run
from jaxbp.report.selftest import OUTCOME_COLUMNS, readme_selftest
from jaxbp.report.selftest import SUMMARY_COLUMNS as SELFTEST_COLUMNS
from jaxbp.report.sharding import AGREEMENT_COLUMNS, SCALING_COLUMNS, recorded_sharding
from jaxbp.report.training import FILES
from jaxbp.report.training_tables import recorded_training

RESULTS = Path(__file__).parents[1] / "results"
MARKER = re.compile(r"^<!-- generated: (\S+) -->$", re.MULTILINE)


def fill_in(app: Any, docname: str, source: list[str]) -> None:
    """Replace the markers of a page; a name that does not exist is an error."""
    source[0] = MARKER.sub(lambda match: PARTS[match[1]](), source[0])


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the cells are Markdown already."""
    header = list(header)
    lines = [header, ["---"] * len(header), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(plain: str) -> str:
    """Plain text as Markdown; what stands between backticks is code."""
    parts = re.split(r"(`[^`]*`)", plain)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_\[\]<|])", r"\\\1", part) for part in parts)


def code(plain: str) -> str:
    """Code in a table cell."""
    return "`" + plain.replace("|", "\\|") + "`"


def columns(meanings: dict[str, str]) -> str:
    """What each column of a table means."""
    return table(("column", "meaning"), ((code(name), text(meaning)) for name, meaning in meanings.items()))


def long_columns() -> str:
    """What each column of the frame of `load_runs` holds."""
    rows = ((code(name), code(dtype), text(meaning)) for name, (dtype, meaning) in LONG_COLUMNS.items())
    return table(("column", "dtype", "meaning"), rows)


def compare_limits() -> str:
    """The numbers that `jaxbp compare` judges by."""
    rows = (
        (f"{100 * compare_times.MARGIN:g} %", "the margin: a smaller change of a time or ratio counts as none"),
        (
            f"{100 * compare_times.FALSE_DISCOVERY_RATE:g} %",
            "of the cells that are stated to have changed may be chance, and of the rules as many",
        ),
        (
            f"{100 * compare_times.BETWEEN_RUNS:g} %",
            "the least standard deviation between two runs of the same code, beyond their intervals",
        ),
        (
            f"{100 * compare_times.BETWEEN_TIMES:g} %",
            f"the same of times, other rounds and a busy machine, where fewer than {compare_times.LEAST_CELLS} tell",
        ),
        (
            f"{compare_times.CELL_FREEDOM:g}, {compare_times.HEAVY:g}",
            "degrees of freedom of Student's t at the most: of a cell; of times, and of a rule on a busy machine",
        ),
        (
            f"{100 * (compare_errors.MORE - 1):g} % and {compare_errors.MORE_ULP:g} ULP",
            "an error that is larger by more than both counts as a loss",
        ),
        (f"{compare_report.PEAKS_APART:g}", "the ratio of the measured peaks of two runs beyond which they are named"),
    )
    return table(("limit", "what it is"), rows)


def levels() -> str:
    """How thorough the levels of a run are."""
    rows = (
        (
            code(level.name),
            _all_but(level.without),
            ", ".join(map(code, level.cases)) or _all_but(level.skipped),
            ", ".join(map(code, level.modes)),
            f"{level.budget.min_rounds} to {level.budget.max_rounds} in {level.budget.seconds:g} s",
            f"{1e3 * level.budget.sample_seconds:g} ms",
        )
        for level in LEVELS.values()
    )
    return table(("level", "engines", "cases", "modes", "rounds per group of engines", "shortest sample"), rows)


def _all_but(left_out: Iterable[str]) -> str:
    return " but ".join(filter(None, ("all", ", ".join(map(code, left_out)))))


def kinks() -> str:
    """All kinks of all ops: what each rule returns there, and what autodiff of the stock function returns."""

    def rows() -> Iterator[tuple[str, ...]]:
        for op in OPS:
            for kink in op.kinks:
                for rule, gradient in kink.gradient.items():
                    stock = shown(stock_gradient(op, kink))
                    yield op_link(op), code(point(op, kink)), code(rule), shown(gradient), stock, text(kink.why)

    return table(("op", "at", "rule", "gradient", "autodiff of stock", "why"), rows())


def stock_gradient(op: Op, kink: Kink) -> tuple[Entries | None, ...]:
    """What autodiff of the stock function returns at a kink, for the cotangent 1."""
    floats = [i for i, name in enumerate(op.arguments) if name not in op.integers]

    def of_floats(*xs: jax.Array) -> jax.Array:
        given = dict(zip(floats, xs, strict=True))
        return op.stock(*(given.get(i, jnp.asarray(x)) for i, x in enumerate(kink.at)))

    y, pull = jax.vjp(of_floats, *(jnp.asarray(kink.at[i], jnp.float32) for i in floats))
    cts = dict(zip(floats, pull(jnp.ones_like(y)), strict=True))
    return tuple(entries(cts[i]) if i in cts else None for i in range(len(op.arguments)))


def entries(x: jax.Array) -> Entries:
    """A number, or a row of them."""
    return tuple(map(float, x)) if x.ndim else float(x)


def point(op: Op, kink: Kink) -> str:
    """The arguments at a kink."""
    return ", ".join(f"{name} = {shown((value,))}" for name, value in zip(op.arguments, kink.at, strict=True))


def op_link(op: Op) -> str:
    """A link to the section of an op."""
    return f"[{op.name}](ops.md#{op.name})"


def op_index() -> str:
    """One row an op, with links."""
    rows = ((op_link(op), code(op.formula.partition(";")[0]), ", ".join(map(code, op.rules))) for op in OPS)
    return table(("op", "value", "rules"), rows)


def op_reference() -> str:
    """A section per family, and in it one per op."""
    return "\n\n".join(part for family in families().values() for part in family_sections(family))


def families() -> dict[str, ModuleType]:
    """The modules that ops are declared in, by name, in the order of the catalog."""
    modules = {module.name: getattr(ops, module.name) for module in pkgutil.iter_modules(ops.__path__)}
    held = {name: module for name, module in modules.items() if members(module)}
    return dict(sorted(held.items(), key=lambda item: OPS.index(members(item[1])[0])))


def members(family: ModuleType) -> list[Op]:
    """The ops of a module, in the order of the catalog."""
    return [op for op in OPS if getattr(family, op.name, None) is op]


def family_sections(family: ModuleType) -> Iterator[str]:
    """The Markdown of one family."""
    name = family.__name__.rpartition(".")[2]
    yield f"## {name.capitalize()}"
    yield f"Module `{family.__name__}`."
    for op in members(family):
        yield from op_sections(op)


def op_sections(op: Op) -> Iterator[str]:
    """The Markdown of one op: what its docstring says, as headings, tables and code."""
    yield f"### {op.name}"
    yield f"```python\njaxbp.{op.name}{op.__signature__}\n```"
    yield text(op.summary)
    yield "```text\n" + "\n".join(re.split(r"[;,] (?=ct_)|; ", op.formula)) + "\n```"
    if op.domain:
        yield "Domain: " + ", ".join(f"{name} in {text(str(domain))}" for name, domain in op.domain.items()) + "."
    rules = ((code(name), text(bound.rule.note), stated(bound.rule.accuracy)) for name, bound in op.rules.items())
    yield table(("rule", "note", "stated ULP of value, gradient"), rules)
    for name, bound in op.rules.items():
        for fault in bound.rule.faults:
            what = "digits lost" if fault.kind == "precision" else f"wrong {fault.kind}"
            yield f"Known of `{name}`, which is kept for teaching: {what} {text(fault.note)}."
    for kink in op.kinks:
        values = "; ".join(f"`{rule}` gives {shown(gradient)}" for rule, gradient in kink.gradient.items())
        yield f"At {point(op, kink)}: {values}. {text(kink.why)}"
    yield f"```pycon\n{op.example}\n```"
    cases = ((code(case.name), text(arguments(op, case))) for case in op.cases)
    yield table(("case", "arguments"), cases)
    yield f"Source: {text(op.source)}"


def stated(accuracy: Accuracy | None) -> str:
    """The accuracy that a rule states, by dtype."""
    if accuracy is None:
        return "none"
    where = f"; where {text(accuracy.note)}" if accuracy.where else ""
    return "; ".join(f"{name} {shown(ulps)}" for name, ulps in accuracy.by_dtype.items()) + where


def census(dtype: str) -> str:
    """The table of all records of a dtype, or that there is none."""
    try:
        return readme_census(RESULTS, dtype)
    except ResultsError:
        return f"There is no record of {dtype} yet."


def arguments(op: Op, case: Any) -> str:
    """A case's arguments: name, shape and distribution of each."""
    parts = zip(op.arguments, case.shapes, case.draws, strict=True)
    return ", ".join(f"{name} {list(shape)} {draw}" for name, shape, draw in parts)


def measured_family(family: ModuleType) -> str:
    """What the newest run measured of a family, and the newest one of the case that runs leave out."""
    folder, ops = newest_run(RESULTS), [op.name for op in members(family)]
    parts = [where(folder), measured(folder, ops)]
    if slow := [op.name for op in members(family) if VOCABULARY in {case.name for case in op.cases}]:
        kept, system = (newest_of_case(RESULTS, VOCABULARY, slow, allocator) for allocator in ("kept", "system"))
        parts += [
            f"Case {code(VOCABULARY)}, which takes minutes and is left out unless asked for. {where(kept)}",
            measured(kept, slow),
            reached(kept, slow, VOCABULARY),
            f"The same in a program that sets nothing ([Allocator](../measurement.md#allocator)). {where(system)}",
            measured(system, slow),
            memory(kept, slow),
        ]
    return "\n\n".join(parts)


def blocks() -> str:
    """What blocks of tokens cost, by the newest record of `bench.blocks`."""
    found = newest_record(RESULTS, "blocks")
    assert found is not None
    folder, machine = found
    header = (
        "tokens a block",
        "temporary, MiB",
        "autodiff's, times",
        "rule / autodiff",
        "products / autodiff",
        "passes / autodiff",
        "rule / passes",
    )

    def ratio(row: Any, name: str) -> str:
        return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"

    def rows() -> Iterator[tuple[str, ...]]:
        for _, row in pd.read_csv(folder / "blocks.csv").iterrows():
            mine, theirs = row["rule_temp_bytes"], row["autodiff_temp_bytes"]
            names = ("rule_of_autodiff", "products_of_autodiff", "passes_of_autodiff", "rule_of_passes")
            yield (
                f"{row['block']:.0f}",
                f"{mine / 2**20:.0f}",
                f"{theirs / mine:.1f}",
                *(ratio(row, name) for name in names),
            )

    noise = machine["noise"]
    where = (
        f"Case {code(machine['case'])}, measured {machine['started'][:10]} on {computer(machine)}, jax "
        f"{machine['versions']['jax']}, commit {machine['commit']}, in {machine['processes']} processes. The machine "
        f"was {noise['verdict']}, with a spread of {100 * noise['spread']:.0f} %."
    )
    return f"{where}\n\n{table(header, rows())}"


def one_program() -> str:
    """What all records say of ratios that are 1 for certain, by mode and in all."""
    cells = pd.concat(of_one_program(read_run(folder).summary) for folder in find_runs(RESULTS))

    def row(name: str, found: pd.DataFrame) -> tuple[str, ...]:
        low, high = np.quantile(found["ratio"], [0.025, 0.975])
        mean = np.exp(np.log(found["ratio"]).mean())
        return (
            name,
            f"{len(found)}",
            f"{100 * holds_one(found).mean():.0f} %",
            f"{mean:.3f}",
            f"{low:.2f} to {high:.2f}",
        )

    rows = [row(code(str(mode)), found) for mode, found in cells.groupby("mode", sort=False)]
    header = ("mode", "cells", "intervals that hold 1", "geometric mean of the ratios", "95 % of the ratios")
    return table(header, [*rows, row("all", cells)])


def measured_in(runs: dict[Path, list[str]]) -> str:
    """What was measured of each op in the run that stands for it."""
    return "\n\n".join(f"{where(folder)}\n\n{measured(folder, ops)}" for folder, ops in runs.items())


def ahead_beside_times() -> str:
    """What was compiled for an H100 beside what the newest run on one measured."""
    runs = map(read_run, newest_with_accelerators(RESULTS))
    run = next(run for run in runs if run.machine["accelerators"] == TARGETS["h100"].name)
    return recorded_beside_times(RESULTS, "h100", run)


def census_accelerator() -> str:
    """The censuses of the machine of the newest of these runs."""
    return readme_census(next(iter(newest_with_accelerators(RESULTS))).parent, "float32")


PARTS: dict[str, Callable[[], str]] = {
    **{f"census-{dtype}": functools.partial(census, dtype) for dtype in DTYPES},
    "blocks": blocks,
    "one-program": one_program,
    "summary-columns": lambda: columns(SUMMARY_COLUMNS),
    "accuracy-columns": lambda: columns(ACCURACY_COLUMNS),
    "long-columns": long_columns,
    "change-columns": lambda: columns(CHANGE_COLUMNS),
    "compare-limits": compare_limits,
    "planted": lambda: recorded_planted(RESULTS),
    "option-columns": lambda: columns(OPTION_COLUMNS),
    "function-columns": lambda: columns(FUNCTION_COLUMNS),
    "selftest": lambda: readme_selftest(RESULTS),
    "selftest-outcome-columns": lambda: columns(OUTCOME_COLUMNS),
    "selftest-summary-columns": lambda: columns(SELFTEST_COLUMNS),
    "proof": lambda: readme_proof(RESULTS),
    "proof-columns": lambda: columns(COMPARISON_COLUMNS),
    "training": lambda: recorded_training(RESULTS, f"../{RESULTS.name}"),
    **{f"training-{name}-columns": functools.partial(columns, held) for name, held in FILES.items()},
    "levels": levels,
    "kinks": kinks,
    "measured-accelerator": lambda: measured_in(newest_with_accelerators(RESULTS)),
    "measured-full": lambda: measured_in(newest_at_level(RESULTS, "full")),
    "census-accelerator": census_accelerator,
    "ahead-v5e": lambda: recorded_ahead(RESULTS, "v5e"),
    "ahead-h100": lambda: recorded_ahead(RESULTS, "h100"),
    "ahead-h100-times": ahead_beside_times,
    "ahead-columns": lambda: columns(AHEAD_COLUMNS),
    "sharding": lambda: recorded_sharding(RESULTS),
    "sharding-agreement-columns": lambda: columns(AGREEMENT_COLUMNS),
    "sharding-scaling-columns": lambda: columns(SCALING_COLUMNS),
    **{f"measured-{name}": functools.partial(measured_family, family) for name, family in families().items()},
    "op-index": op_index,
    "op-reference": op_reference,
}

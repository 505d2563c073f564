"""`report.md`: a run's tables and pictures as Markdown."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from jaxbp.ops import OPS
from jaxbp.report import growth, plots, resources, tables
from jaxbp.report.options import option_table
from jaxbp.report.run import Run, naming

REPORT = "report.md"
HOW_TO_READ = """\
- **ULP**: units in the last place. 0.5 is a correctly rounded result; 1.7e7 is a float32 with no digit right.
  Where entries are sums that may cancel (matmul, linear, neuron), a large worst ULP is a small entry, not a wrong
  rule: the first table and the picture then give the error in ULP of the largest entry, and mark it with a star.
  At ties the reference holds to the convention of the default rule, so `textbook` of maximum and minimum, which
  gives both inputs all of the gradient, shows as wrong where random data tie.
- **Ratio**: time over autodiff's time, both sampled in the same interleaved rounds; below 1 is faster. The
  brackets hold its 95 % interval, by the bootstrap, or by Student's t where several processes measured. A verdict
  needs the whole interval beyond 2 %; *cannot say* means that the noise was larger than the difference, *dispatch*
  that the call itself costs about as much as what it computes, *same program* that the compiler made one program of
  both, whatever their times say.
- **split** is the forward pass with residuals plus the backward pass, as in training, where residuals cross
  memory; a pass that is the same program on both sides has one time in its ratio. **fwd_bwd** is one executable, where
  the compiler keeps them in registers; **summed** is that with the value, times the cotangent, summed to a number, as a
  loss is: on a CPU XLA then writes no value down where a library of sums knows the formula.
- **kept** is what stays alive between forward and backward pass beyond the inputs. **temporary** is what the
  executable of fwd_bwd allocates beside arguments and outputs, **peak** all three together, both by the compiler's
  plan; **peak resident set** is how far one call raised a process's memory above its inputs.
- **Physical limit**: the least time that the gradient's operations and bytes take at the measured peak, over the time
  it took; in brackets which of the two limits it is. Data that fit a cache are faster than any copy measured, so
  small cases have no memory limit and say n/a.
- NumPy and torch run in processes of their own, so their times have no verdict. *(extrapolated)* marks numerical
  gradients that were measured on a seeded sample of entries, because all of them would take too long."""

GROWTH = """\
The exponent p of time ~ entries^p for value and gradient (fwd_bwd), with its 95 % interval: a line through the
logarithms of the entries of the largest array and of the time beyond the dispatch floor. Sizes that take less than
twice the floor are left out; n/a where fewer than three remain. **operations** is the same exponent of the declared
operations. Where arrays leave a cache, times grow faster than operations for a while. Numerical gradients of sums
(matmul, linear, neuron) evaluate the function once or twice for every entry."""


OPTIONS = """\
Time of value and gradient (fwd_bwd) of the default rule with the option over that without, sampled in the same rounds.
All other times here are without. In a program of your own: `jax.jit(f, compiler_options={name: value})`, or for all
of a process `XLA_FLAGS=--name=value`."""


def write_report(run: Run, path: Path | None = None) -> Path:
    """Write the report and its pictures beside each other; by default into the run's folder."""
    path = path or run.folder / REPORT
    with naming(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(_sections(run, path.parent, path.stem)) + "\n"
    with naming(path, "written"):
        path.write_text(text)
    return path


def standing(summary: pd.DataFrame, accuracy: pd.DataFrame, dtype: str) -> str:
    """The default rules against autodiff, and where they are slower all rules of the op."""
    slower = tables.slower(summary, accuracy, dtype)
    overview = tables.overview(summary, accuracy, dtype)
    parts = [table(overview), tables.STAR]
    if not slower.empty:
        parts += [tables.about_slower(int((overview.filter(like="/ autodiff") != "").sum().sum())), table(slower)]
    return "\n\n".join(parts)


def error_picture(folder: Path, stem: str, dtype: str) -> Path:
    """The picture of error against time beside a report of this stem."""
    return folder / f"{stem}-{dtype}-error-against-time.png"


def table(frame: pd.DataFrame) -> str:
    """A frame of text as a Markdown table; cell text cannot break out of its cell."""
    return str(frame.astype(str).map(_escape).to_markdown(index=False, disable_numparse=True))


def _escape(text: str) -> str:
    # Entities, because a backslash before the bar may itself be escaped by one in the text.
    text = " ".join(text.splitlines())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")


def _sections(run: Run, folder: Path, stem: str) -> Iterator[str]:
    summary, accuracy = run.summary, run.accuracy
    yield "# Hand-written gradients: accuracy and speed\n"
    yield "\n".join(f"- {name}: {fact}" for name, fact in run.facts().items()) + "\n"
    failed = tables.failures(summary)
    if len(failed):
        yield f"## Failed: {len(failed)}\n\n{table(failed)}\n"
    yield f"## How to read this\n\n{HOW_TO_READ}\n"
    for dtype in tables.unique(summary["dtype"]):
        cases = tables.unique(summary["case"])
        yield f"## {dtype}: the default rules against autodiff, at each op's largest case\n"
        yield standing(summary, accuracy, dtype) + "\n"
        yield f"### {dtype}: memory\n"
        yield table(resources.memory(summary, dtype)) + "\n"
        yield f"### {dtype}: operations and bytes of fwd_bwd, by declaration and by XLA's count\n"
        yield table(resources.work(summary, dtype)) + "\n"
        gained = option_table(run.options, dtype)
        if len(gained):
            yield f"### {dtype}: what options of the compiler gain\n\n{OPTIONS}\n"
            yield table(gained) + "\n"
        picture = error_picture(folder, stem, dtype)
        _save(plots.error_against_time(summary, accuracy, dtype), picture)
        yield f"![Error against time]({picture.name})\n"
        yield (
            f"Error in ULP against time; lower left is best. The green band ends at {plots.FAIR_ULP} ULP; errors above "
            f"{plots.MOST_ULP:g} are drawn at the top, hollow marks are numerical gradients of a sample of entries.\n"
        )
        if growth.has_sizes(summary, dtype):
            yield f"## {dtype}: how the cost grows\n"
            yield f"{GROWTH}\n\n{table(growth.exponent_table(summary, dtype))}\n"
            yield from _growth(summary, dtype, folder, stem)
            continue
        yield from _cases(summary, accuracy, cases, dtype)
        single = [op.name for op in OPS if not op.elementwise]
        chosen = summary[summary["op"].isin(single) & (summary["dtype"] == dtype)]
        if (chosen.groupby("op")["n"].nunique() > 1).any():
            yield f"## {dtype}: what a numerical gradient costs as arrays grow\n"
            yield table(tables.growth(summary, dtype)) + "\n"
            yield from _growth(chosen, dtype, folder, stem)


def _growth(cells: pd.DataFrame, dtype: str, folder: Path, stem: str) -> Iterator[str]:
    picture = folder / f"{stem}-{dtype}-growth.png"
    _save(growth.figure(cells, dtype), picture)
    yield f"![Growth]({picture.name})\n"


def _cases(summary: pd.DataFrame, accuracy: pd.DataFrame, cases: list[str], dtype: str) -> Iterator[str]:
    for case in cases:
        yield f"## {dtype}, case {case}: all engines\n"
        yield "Time of value and gradient (fwd_bwd):\n"
        yield table(tables.engine_times(summary, case, dtype)) + "\n"
        reached = resources.engine_roofline(summary, case, dtype)
        yield "Percent of the physical limit (fwd_bwd):" + (f" {tables.UNKNOWN}\n" if reached.empty else "\n")
        if len(reached):
            yield table(reached) + "\n"
        yield "Worst ULP of the worst gradient:\n"
        yield table(tables.engine_errors(accuracy, case, dtype)) + "\n"
        yield "Largest error of the worst gradient, relative to its largest entry:\n"
        yield table(tables.engine_errors(accuracy, case, dtype, "norm_rel")) + "\n"


def _save(figure: Figure, path: Path) -> None:
    with naming(path, "written"):
        plots.save(figure, path)

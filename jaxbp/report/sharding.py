"""Gradients on many devices: the frames, the tables, what a larger machine would make of it, and their record."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from jaxbp.measure.verdict import Side, compare_sides, ratio_interval
from jaxbp.report import tables
from jaxbp.report.markdown import table
from jaxbp.report.run import naming, newest_record
from jaxbp.sharding.agreement import FACTOR, UNITS
from jaxbp.sharding.scaling import AUTODIFF, RULE, STRONG, WEAK
from jaxbp.sharding.ways import WAYS

Row = dict[str, Any]

FOLDER = "sharding"
AGREEMENT = "agreement.csv"
SCALING = "scaling.csv"
REPORT = "report.md"

#: What each column of `agreement.csv` means.
AGREEMENT_COLUMNS = {
    "op": "the op, or the layout",
    "way": "how it meets the devices, or `layout`",
    "devices": "how many there are",
    "processes": "how many processes they belong to, joined over loopback",
    "quantity": "value, or ct_ and an argument's name",
    "judged_by": "stated: the accuracy that the rule states; bound: what rounding can do to a sum; one device: "
    f"{FACTOR:g} times the error on one device, and {UNITS:g} ULP",
    "error": "the largest error on many devices: in ULP, as a fraction of the bound, or in ULP of the largest entry",
    "error_of_one": "the same on one device",
    "allowed": "how large the error may be",
    "differing": "entries whose bits are not those of one device",
    "entries": "of so many",
    "collectives": "how often which collective happens in a call of value and gradient under the default rule",
    "sent_bytes": "what each device sends in it, if collectives are rings",
    "autodiff_collectives": "the same of autodiff",
    "autodiff_sent_bytes": "likewise",
    "status": "ok, wrong or failed",
    "reason": "why it is not ok",
    "commit": "of the code that was compared",
}
#: What makes two rows say the same, of which the later counts.
COMPARED = ["op", "way", "devices", "processes"]
#: What each column of `scaling.csv` means.
SCALING_COLUMNS = {
    "layout": "the layer, and what of it is divided",
    "scaling": f"{STRONG}: the same problem on more devices; {WEAK}: as much on each device as on one",
    "case": "the case of the op that is divided, or that each device has",
    "devices": "how many there are",
    "engine": "the default rule, or autodiff",
    "flops": "analytic operations of value and gradient, on all devices together",
    "collectives": "how often which collective happens in a call",
    "sent_bytes": "what each device sends in it, if collectives are rings",
    "kept_bytes": "what each device keeps between forward and backward pass beside its part of the inputs",
    "temp_bytes": "what each device allocates in a call beside arguments and outputs",
    "time_us": "median time of value and gradient, microseconds",
    "ratio": "of the rule: its time over autodiff's on as many devices, in shared rounds",
    "ratio_low": "the low end of its 95 % interval",
    "ratio_high": "the high end",
    "verdict": "faster, same, slower or cannot say",
    "over_one": "time over the same engine's time on one device, in shared rounds",
}

#: The chip of the extrapolation: operations a second on bfloat16, and bytes a second that a ring over it sends, both
#: directions of a link together. Austin et al. 2025, How to Scale Your Model, chapter 2.
CHIP, PEAK, RING = "TPU v5e", 1.97e14, 9.0e10
EXTRAPOLATED = (8, 64, 256)


def agreement_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """One row per op, way, devices, processes and quantity."""
    return pd.DataFrame(list(rows), columns=list(AGREEMENT_COLUMNS))


def scaling_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """One row per layout, scaling, devices and engine, from the rows of `measure_layout`."""
    found, taken = [], list(rows)
    key = ("layout", "scaling", "devices", "engine")
    by_key = {tuple(row[name] for name in key): row for row in taken}
    for row in taken:
        one = by_key[row["layout"], row["scaling"], 1, row["engine"]]
        other = by_key[row["layout"], row["scaling"], row["devices"], AUTODIFF]
        compared: Row = {}
        if row["engine"] == RULE:
            ratio, says = compare_sides(
                Side(row["samples_us"], row["cores"]), Side(other["samples_us"], other["cores"]), paired=True
            )
            compared = {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high, "verdict": says}
        found.append(
            {
                **row,
                **compared,
                "time_us": pd.Series(row["samples_us"]).median(),
                "over_one": ratio_interval(row["samples_us"], one["samples_us"], paired=True).value,
            }
        )
    return pd.DataFrame(found, columns=list(SCALING_COLUMNS))


def agreement_overview(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per devices, processes and way: how many ops agree, and what does not."""
    found = []
    for (devices, processes, way), own in frame.groupby(["devices", "processes", "way"], sort=False):
        wrong = own[own["status"] != "ok"]
        ops = own["op"].nunique()
        found.append(
            {
                "devices": devices,
                "processes": processes,
                "way": way,
                "ops": ops,
                "right": ops - wrong["op"].nunique(),
                "the same bits": int(own.groupby("op")["differing"].sum().eq(0).sum()),
                "not right": "; ".join(
                    f"{r['op']} {'' if pd.isna(r['quantity']) else r['quantity']}: {r['reason']}"
                    for _, r in wrong.iterrows()
                ),
            }
        )
    return pd.DataFrame(found)


def communication(frame: pd.DataFrame) -> pd.DataFrame:
    """Where rule and autodiff send unequally much on the most devices in one process: one row per op and way."""
    most = frame[(frame["processes"] == 1) & (frame["devices"] == frame["devices"].max()) & frame["sent_bytes"].notna()]
    calls = most.drop_duplicates(["op", "way"])
    calls = calls[(calls["sent_bytes"] - calls["autodiff_sent_bytes"]).abs() > 0.5]
    return pd.DataFrame(
        {
            "op": calls["op"],
            "way": calls["way"],
            "rule": calls["collectives"],
            "sends": calls["sent_bytes"].map(tables.size),
            "autodiff": calls["autodiff_collectives"],
            "autodiff sends": calls["autodiff_sent_bytes"].map(tables.size),
        }
    )


def layouts_overview(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per layout: rule beside autodiff on the most devices, strong scaling."""
    strong = frame[(frame["scaling"] == STRONG) & (frame["devices"] == frame["devices"].max())]
    found = []
    for layout, own in strong.groupby("layout", sort=False):
        rule, autodiff = (own[own["engine"] == engine].iloc[0] for engine in (RULE, AUTODIFF))
        ratio = f"{rule['ratio']:.2f} [{rule['ratio_low']:.2f}, {rule['ratio_high']:.2f}] {rule['verdict']}"
        found.append(
            {
                "layer": layout,
                "collectives": rule["collectives"],
                "sends": tables.size(rule["sent_bytes"]),
                "autodiff sends": tables.size(autodiff["sent_bytes"]),
                "keeps": tables.size(rule["kept_bytes"]),
                "autodiff keeps": tables.size(autodiff["kept_bytes"]),
                "temporary": tables.size(rule["temp_bytes"]),
                "autodiff's": tables.size(autodiff["temp_bytes"]),
                "time / autodiff": ratio,
            }
        )
    return pd.DataFrame(found)


def times_overview(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per layout and scaling: the rule's time by devices, over that on one."""
    rule = frame[frame["engine"] == RULE]
    found = []
    for (layout, scaling), own in rule.groupby(["layout", "scaling"], sort=False):
        many = own[own["devices"] > 1]
        times = {f"{n} devices": f"{over:.2f}" for n, over in zip(many["devices"], many["over_one"], strict=True)}
        found.append({"layer": layout, "scaling": scaling, **times})
    return pd.DataFrame(found)


def extrapolated(flops: float, sent: float, measured_on: int, devices: int) -> float:
    """The share of n chips' peak that a problem of so many operations leaves them, on paper.

    T(n) = F / (n P) + S(n) / W, and the share is T(1) / (n T(n)): nothing overlaps, nothing waits. S(n) is what each
    chip sends; of a ring it grows with (n - 1) / n.

    >>> round(extrapolated(1e12, 7e6, 8, 8), 3)
    0.891
    """
    at_n = sent * ((devices - 1) / devices) / ((measured_on - 1) / measured_on)
    one = flops / PEAK
    return one / (one + devices * at_n / RING)


def extrapolation(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per layout: `extrapolated` of the rule, strong scaling."""
    most = frame["devices"].max()
    rule = frame[(frame["scaling"] == STRONG) & (frame["devices"] == most) & (frame["engine"] == RULE)]
    return pd.DataFrame(
        {
            "layer": rule["layout"],
            "operations": rule["flops"].map(lambda n: f"{n:.2g}"),
            **{
                f"{n} chips": [
                    f"{100 * extrapolated(flops, sent, int(most), n):.0f} %"
                    for flops, sent in zip(rule["flops"], rule["sent_bytes"], strict=True)
                ]
                for n in EXTRAPOLATED
            },
        }
    )


def read_sharding(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames of a record: of agreement, and of scaling."""
    found = []
    for name, columns in ((AGREEMENT, AGREEMENT_COLUMNS), (SCALING, SCALING_COLUMNS)):
        with naming(folder / name, "read"):
            frame = pd.read_csv(folder / name, dtype={"commit": str})
            if missing := [column for column in columns if column not in frame.columns]:
                raise ValueError(f"it has no column {missing[0]!r}")
            found.append(frame[list(columns)])
    return found[0], found[1]


def write_sharding(
    folder: Path,
    machine: Row,
    agreement: Iterable[Row],
    scaling: Iterable[Row],
    earlier: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> tuple[Path, pd.DataFrame]:
    """Write frames and report into the folder of a record; the report's path, and the frame of agreement.

    Of an `earlier` record what was not compared or measured again stays.
    """
    frame, times = agreement_frame({**row, "commit": machine["commit"]} for row in agreement), scaling_frame(scaling)
    if earlier:
        again = pd.MultiIndex.from_frame(frame[COMPARED])
        kept = ~pd.MultiIndex.from_frame(earlier[0][COMPARED]).isin(again)
        frame = pd.concat([earlier[0][kept], frame], ignore_index=True).sort_values(
            ["processes", "devices"], kind="stable", ignore_index=True
        )
        times = times if len(times) else earlier[1]
    for name, written in ((AGREEMENT, frame), (SCALING, times)):
        with naming(folder / name, "written"):
            written.to_csv(folder / name, index=False, float_format="%.6g")
    with naming(folder / REPORT, "written"):
        (folder / REPORT).write_text("\n\n".join(report(machine, frame, times)) + "\n")
    return folder / REPORT, frame


WHAT_IS_RIGHT = f"""\
The default rule of each op, value and gradient in one executable, float32. It is right if its error is within the
accuracy that the rule states; of sums, within what rounding can do to them; where neither is known, within {FACTOR:g}
times the error on one device and {UNITS:g} ULP of the largest entry."""

ON_BYTES = """\
Case `memory` on {} devices. Bytes are those of each device; what is kept counts the copies of inputs that all devices
have, for rule and autodiff alike."""

ON_TIMES = """\
Time of the rule over its time on one device. Strong: the problem stays the same, and 1 / n would be perfect. Weak: each
device has as much to do as the one had, and 1 would be perfect, with a core each. Here one device computes a product on
all {} cores already, so that neither can be had."""

ON_PAPER = f"""\
What the same problem would leave of the peak of n chips ({CHIP}: P = {PEAK:.3g} operations a second, W = {RING:.2g}
bytes a second in a ring): T(n) = F / (n P) + S(n) / W, and the share is T(1) / (n T(n)), if nothing overlaps. S(n) is
what each chip sends, counted here and growing with (n - 1) / n. These problems are small; F of a linear layer grows
with its rows, S does not."""


def report(machine: Row, agreement: pd.DataFrame, scaling: pd.DataFrame) -> list[str]:
    """The paragraphs of the report."""
    cores, commits = machine["cores"], ", ".join(sorted(agreement["commit"].unique()))
    where = (
        f"Measured {machine['started'][:10]} on {machine['cpu']}, {cores} cores, jax {machine['versions']['jax']}, "
        f"commit {commits}. All devices are the processor's own (`jax_num_cpu_devices`), and share the cores "
        "where they are more."
    )
    paragraphs = ["# Gradients on many devices", where]
    if len(agreement):
        ways = [f"- **{name}**: {what}." for name, what in WAYS.items()]
        ways.append("- **layout**: shard_map, with the collectives where the layer needs them.")
        unequal = communication(agreement)
        paragraphs += [
            "## What many devices compute, beside one",
            WHAT_IS_RIGHT,
            "\n".join(ways),
            table(agreement_overview(agreement)),
            "## Where rule and autodiff send unequally much",
            table(unequal) if len(unequal) else "Nowhere.",
        ]
    if len(scaling):
        paragraphs += [
            "## Layers that are divided by hand",
            ON_BYTES.format(scaling["devices"].max()),
            table(layouts_overview(scaling)),
            "## Scaling",
            ON_TIMES.format(cores),
            table(times_overview(scaling)),
            "## On paper",
            ON_PAPER,
            table(extrapolation(scaling)),
        ]
    return paragraphs


def recorded_sharding(results: Path) -> str:
    """The newest record without its heading, as Markdown."""
    found = newest_record(results, FOLDER)
    if found is None:
        return "There is no record yet."
    with naming(found[0] / REPORT, "read"):
        return (found[0] / REPORT).read_text().partition("\n\n")[2].replace("\n## ", "\n### ")


def not_right(frame: pd.DataFrame) -> bool:
    """Whether anything is wrong, or failed."""
    return bool((frame["status"] != "ok").any())

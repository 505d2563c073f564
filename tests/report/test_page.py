"""`report.html` as text: nothing beside it is needed, names stay text, and every number is the frames'."""

import base64
import dataclasses
import hashlib
import html
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import MACHINE, accuracy_row, failure_row, small_run, time_row

from jaxbp.measure.limits import Limits
from jaxbp.report import plots, tables
from jaxbp.report.html.answers import QUESTIONS, answers
from jaxbp.report.html.page import SCRIPTS, SYMBOLS, render, write_page
from jaxbp.report.html.templating import asset
from jaxbp.report.markdown import write_report
from jaxbp.report.run import Run, read_run, write_frames, write_machine

NASTY = "</script><script>alert(1)</script><!-- <b title='\"'> &amp; ' \u2028"
RESULTS = Path(__file__).parents[2] / "results"


def scripts(page: str, kind: str) -> dict[str, Any]:
    """The JSON that a page carries, by key or name."""
    pattern = rf'<script type="application/json" class="{kind}" data-\w+="([^"]*)">(.*?)</script>'
    return {html.unescape(key): json.loads(text) for key, text in re.findall(pattern, page, re.DOTALL)}


def column(columns: list[dict], name: str) -> list:
    (found,) = (column for column in columns if column["name"] == name)
    return found["numbers"] if "numbers" in found else [found["texts"][code] for code in found["codes"]]


def test_a_page_needs_nothing_beside_it(tmp_path):
    page = write_page([small_run(tmp_path)], tmp_path / "new" / "page.html").read_text()
    own = page[: page.index("<script>")]  # Libraries name their homes in comments.
    assert "http:" not in own
    assert "https:" not in own
    assert set(re.findall(r'(?:src|href)="([^#"]*)', own)) <= {"", "data:,"}
    # Every script that runs is one that the page's policy names.
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', own)
    assert policy.startswith("default-src 'none'")
    bodies = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(bodies) == len(SCRIPTS)
    for body in bodies:
        assert base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() in policy
    assert len(page) < 6e6


def test_what_a_page_carries_is_of_the_stated_version_and_licence():
    lines = [line.split("|")[1:-1] for line in asset("vendor/README.md").splitlines() if line.startswith("| `")]
    assert {f"vendor/{name.strip(' `')}" for name, *_ in lines} == {s for s in SCRIPTS if s.startswith("vendor/")}
    for name, _, version, licence in ([cell.strip(" `") for cell in line] for line in lines):
        assert re.match(rf".*\bv?{re.escape(version)}\s", asset(f"vendor/{name}")), name
        kind, file = licence.split(", `")
        assert {"ISC": "Permission to use, copy, modify", "MIT": "Permission is hereby granted"}[kind] in asset(
            f"vendor/{file}"
        )


def test_names_stay_text(tmp_path):
    write_machine(tmp_path, {**MACHINE, "cpu": NASTY})
    run = write_frames(
        tmp_path, [time_row(op=NASTY, case=NASTY), accuracy_row(op=NASTY, case=NASTY), failure_row(NASTY, op=NASTY)]
    )
    page = render([run], [NASTY])
    libraries = "".join(asset(name) for name in SCRIPTS)
    assert page.count("alert(1)") > 5
    assert page.count("<script>alert(1)") == 0
    assert page.count("<script") == libraries.count("<script") + len(SCRIPTS) + 1 + 1 + 1 + 3
    (detail,) = scripts(page, "op").values()
    assert detail["op"] == NASTY
    assert column(scripts(page, "frame")["summary"], "op") == [NASTY] * 2
    assert html.escape(NASTY, quote=False).replace("'", "&#39;").replace('"', "&#34;") in page
    assert "&lt;script&gt;" in run._repr_html_()
    assert "<script" not in run._repr_html_()


def test_the_raw_tables_are_the_frames(tmp_path):
    run = small_run(tmp_path, accuracy_row(max_ulp=math.inf), failure_row("no", op="exp"))
    frames = scripts(render([run]), "frame")
    for name in ("summary", "accuracy"):
        frame = getattr(run, name)
        assert [column["name"] for column in frames[name]] == list(frame.columns)
        assert all(column["meaning"] for column in frames[name])
        read = pd.DataFrame({column_["name"]: column(frames[name], column_["name"]) for column_ in frames[name]})
        for found in frame.columns:
            if pd.api.types.is_numeric_dtype(frame[found]):
                assert read[found].astype(float).tolist() == pytest.approx(frame[found].tolist(), nan_ok=True)
            else:
                assert read[found].tolist() == frame[found].fillna("").tolist()
    assert "inf" in column(frames["accuracy"], "max_ulp")


def standing(*rows, op="sigmoid", tmp_path: Path) -> dict[str, dict]:
    write_machine(tmp_path, MACHINE)
    run = write_frames(tmp_path, list(rows))
    (found,) = (s for s in tables.standings(run.summary, run.accuracy, "float32") if s.op == op)
    return answers(found)


def cells(times, ulps, kept=(0, 0), temporary=(0, 0), op="sigmoid"):
    for engine, samples, ulp, residual, temp in zip(
        ("rule:stable", "autodiff"), times, ulps, kept, temporary, strict=True
    ):
        at = {"op": op, "engine": engine}
        yield accuracy_row("ct_x", ulp, **at)
        for mode in ("fwd_bwd", "bwd", "summed"):
            yield time_row(mode, [samples * (1 + i / 1000) for i in range(99)], temp_bytes=temp, **at)
        yield time_row("fwd_res", [samples * (1 + i / 1000) for i in range(99)], residual_bytes=residual, **at)


def test_the_answers_of_a_better_and_a_worse_rule(tmp_path):
    better = standing(*cells((50, 100), (2, 1e7), (0, 4096)), tmp_path=tmp_path / "better")
    assert list(better) == list(QUESTIONS)
    assert [answer["word"] for answer in better.values()] == ["yes", "more", "faster", "faster", "faster", "leaner"]
    assert {answer["tone"] for answer in better.values()} == {"good"}
    assert better["digits"]["text"] == "2 against 1e+07 ULP"
    assert better["fwd_bwd"]["text"] == "0.50 [0.50, 0.50]"
    assert better["memory"]["text"] == "keeps 0, autodiff 4 KiB"
    worse = standing(*cells((100, 50), (1e7, 2), (4096, 0)), tmp_path=tmp_path / "worse")
    assert [answer["word"] for answer in worse.values()] == ["yes", "fewer", "slower", "slower", "slower", "heavier"]
    assert all(better[name]["order"] < worse[name]["order"] for name in QUESTIONS if name != "right")
    failed = standing(failure_row("it was wrong", op="sigmoid", engine="rule:stable"), tmp_path=tmp_path / "failed")
    assert [answer["word"] for answer in failed.values()] == ["NO", "", "", "", "", ""]
    assert (failed["right"]["text"], failed["right"]["tone"]) == ("it was wrong", "bad")
    assert failed["right"]["order"] > better["right"]["order"]
    # Of a rule that was not timed nothing is said.
    alone = standing(time_row(op="sigmoid"), tmp_path=tmp_path / "alone")
    assert {answer["word"] for answer in alone.values()} == {""}


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        *((0.0, 0.5, "same"), (0.4, 0.9, "same"), (0.4, 1.0, "more"), (2.0, 3.9, "same"), (4.0, 2.0, "fewer")),
        *((3.0, math.inf, "more"), (math.inf, 3.0, "fewer"), (math.inf, math.inf, "same"), (math.nan, 1.0, "")),
    ],
)
def test_digits_differ_by_a_bit(tmp_path, ours, theirs, word):
    found = standing(*cells((50, 50), (ours, theirs)), tmp_path=tmp_path)["digits"]
    assert found["word"] == word
    assert math.isfinite(found["order"])


@pytest.mark.parametrize(
    ("kept", "temporary", "word"),
    [
        *(((0, 0), (100, 101), "same"), ((0, 8), (100, 100), "leaner"), ((0, 0), (9, 8), "heavier")),
        *(((0, 8), (200, 100), "mixed"), ((None, None), (0, 100), "leaner"), ((None, None), (None, None), "")),
    ],
)
def test_memory_is_what_is_kept_and_what_is_allocated(tmp_path, kept, temporary, word):
    assert standing(*cells((50, 50), (1, 1), kept, temporary), tmp_path=tmp_path)["memory"]["word"] == word


def test_the_pareto_front_holds_what_nothing_beats_in_both(tmp_path):
    rows = []
    for engine, time, ulp in (
        *(("rule:stable", 10, 3.0), ("rule:textbook", 5, 9.0), ("autodiff", 10, 4.0)),
        *(("numpy", 20, 0.5), ("torch", 30, 0.5), ("central_difference", 99, math.nan)),
    ):
        at = {"op": "sigmoid", "engine": engine}
        rows += [accuracy_row("ct_x", ulp, **at), time_row(samples_us=[time] * 9, **at)]
    write_machine(tmp_path, MACHINE)
    (detail,) = scripts(render([write_frames(tmp_path, rows)]), "op").values()
    (case,) = detail["cases"]
    assert {row["engine"] for row in case["engines"] if row["front"]} == {"rule:stable", "rule:textbook", "numpy"}
    assert {row["engine"]: row["ulp"] for row in case["engines"]}["central_difference"] is None
    assert case["engines"][0]["text"]["time"] == "10 µs ±0"


def test_growth_is_drawn_with_the_exponent_that_is_fitted(tmp_path):
    at = {"op": "sigmoid", "engine": "rule:stable"}
    rows = [
        time_row(samples_us=[1 + 0.01 * n**1.5] * 9, case=f"growth-{i}", n=n, **at)
        for i, n in enumerate((2**10, 2**12, 2**14, 2**16, 2**18, 2**20))
    ]
    write_machine(tmp_path, MACHINE)
    (detail,) = scripts(render([write_frames(tmp_path, rows)]), "op").values()
    (curve,) = detail["growth"]["curves"]
    assert curve["text"] == "entries^1.50 ±0.00"
    for n, time in curve["points"]:
        assert time == pytest.approx(1 + 0.01 * n**1.5, rel=1e-3)
    assert [point["n"] for point in detail["growth"]["points"]] == [2**10, 2**12, 2**14, 2**16, 2**18, 2**20]


def beside_censuses(folder: Path, *names: str) -> Run:
    """A run with copies of these records of censuses beside it."""
    for name in names:
        shutil.copytree(RESULTS / "census" / name, folder / "census" / name)
    return small_run(folder / "machine" / "run")


def test_censuses_beside_a_run_are_shown(tmp_path):
    run = beside_censuses(tmp_path, "sigmoid-float32", "sigmoid-float64", "tanh-float32")
    details = scripts(render([run]), "op")
    assert details["matmul-float32"]["census"] == []
    (record,) = details["sigmoid-float32"]["census"]
    assert record["title"] == "sigmoid, every float32"
    binades = pd.read_csv(RESULTS / "census" / "sigmoid-float32" / "binades.csv")
    assert len(record["points"]) > 0.9 * len(binades)
    worst = max(
        ulp for engine, quantity, _, ulp in record["points"] if record["engines"][engine]["engine"] == "rule:stable"
    )
    assert worst == pytest.approx(binades.query("engine == 'rule:stable'")["max_ulp"].max(), rel=1e-3)
    assert all(x != 0 and math.isfinite(x) for _, _, x, _ in record["points"])


@pytest.mark.parametrize("name", ["census.json", "binades.csv"])
@pytest.mark.parametrize("text", ["", "{", "a,b\n1,2\n", None], ids=["empty", "cut", "foreign", "missing"])
def test_a_census_that_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path, name, text):
    run = beside_censuses(tmp_path, "sigmoid-float32", "tanh-float32")
    path = tmp_path / "census" / "tanh-float32" / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    page = render([run])
    # A folder without its record is no census.
    assert (str(path) in page) == ((name, text) != ("census.json", None))
    assert ("Not shown here" in page) == (str(path) in page)
    assert scripts(page, "op")["sigmoid-float32"]["census"]


def test_several_runs_share_a_page(tmp_path):
    runs = [small_run(tmp_path / name / "run") for name in ("a", "b")]
    page = render(runs)
    details = scripts(page, "op")
    assert list(details) == ["1-sigmoid-float32", "1-matmul-float32", "2-sigmoid-float32", "2-matmul-float32"]
    assert details["2-matmul-float32"]["run"] == "b/run"
    frames = scripts(page, "frame")
    assert column(frames["summary"], "run") == ["a/run"] * len(runs[0].summary) + ["b/run"] * len(runs[1].summary)
    assert page.count("<option>b/run</option>") == 1


def test_a_run_without_rows_has_a_page(tmp_path):
    write_machine(tmp_path, {**MACHINE, "unfinished": 3})
    run = write_frames(tmp_path, [])
    page = render([run])
    assert "0 cells measured" in page
    assert "3 tasks were not measured" in page
    assert scripts(page, "op") == {}
    assert "0 cells measured" in run._repr_html_()


def test_a_notebook_shows_the_overview(tmp_path):
    run = small_run(tmp_path)
    shown = run._repr_html_()
    assert html.escape(str(run)) in shown
    for text in tables.overview(run.summary, run.accuracy, "float32").iloc[0]:
        assert html.escape(text) in shown
    assert "<img" not in shown
    write_report(run)
    assert "data:image/png;base64,iVBOR" in run._repr_html_()


def test_every_style_has_a_symbol_of_its_own():
    markers = [marker for _, marker in plots.STYLES.values()]
    assert len({SYMBOLS[marker] for marker in markers}) == len(markers)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "soft", "link", "good", "bad"])
def test_text_has_contrast(theme, text):
    colours = re.findall(r"--(\w+): (#[0-9a-f]{6});", asset("static/page.css"))
    named = dict(colours[: len(colours) // 2] if theme == 0 else colours[len(colours) // 2 :])
    for ground in ("paper", "raised"):
        lighter, darker = sorted((luminance(named[text]), luminance(named[ground])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_a_page_is_read_back_from_the_tables_alone(tmp_path):
    before = render([small_run(tmp_path)])
    assert render([read_run(tmp_path)]) == before


def rooflines(page: str) -> list[dict[str, Any]]:
    (text,) = re.findall(r'<script type="application/json" id="rooflines">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_the_roofline_has_rule_and_autodiff_of_each_op_below_the_limits_that_were_measured(tmp_path):
    run = small_run(tmp_path)
    assert rooflines(render([run])) == []
    assert "data-roofline>" not in render([run])
    limits = Limits("cpu", "float32", ((2**24, 40e9), (2**27, 10e9)), ((512, 100e9),), "", ((2**18, 60e9),))
    run = dataclasses.replace(run, machine={**run.machine, "limits": [dataclasses.asdict(limits)]})
    page = render([run])
    (drawn,) = rooflines(page)
    assert (drawn["peak"], drawn["elementwise"], drawn["bandwidth"], drawn["run"]) == (100, 60, 10, "")
    cells = run.summary[(run.summary["op"] == "matmul") & (run.summary["case"] == "memory")].set_index("engine")
    points = {point["engine"]: point for point in drawn["points"] if point["op"] == "matmul"}
    assert set(points) == {"rule:transpose", "autodiff"}
    for engine, point in points.items():
        assert point["rate"] == pytest.approx(cells["gflops"][engine], rel=1e-3)
        assert point["intensity"] == pytest.approx(cells["flops"][engine] / cells["bytes"][engine], rel=1e-3)
        assert f'href="#{point["anchor"]}"' in page
    # What has no operations has no place on it, and what another device computed no limit.
    none = run.summary.assign(flops=0.0)
    assert rooflines(render([dataclasses.replace(run, summary=none)])) == []
    assert rooflines(render([dataclasses.replace(run, summary=run.summary.assign(device="NVIDIA H100"))])) == []

"""`jaxbp circuit`."""

import json
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("drawables.py")


def test_numbers_are_typed_as_they_are(run):
    result = run("circuit", f"{FILE}:product_of_sum", "-2", "5", "-4")
    assert result.code == 0, result.err
    assert "Circuit of product_of_sum" in result.out
    (row,) = [line.split() for line in result.out.splitlines() if " z " in line]
    assert row[-4:-1] == ["-4", "3", "0"] or "-4" in row


def test_lists_integers_and_drawn_arrays(run):
    words = ("circuit", f"{FILE}:cross_entropy", "[[1, 2.5, -3], [0, 0, 1]]", "i32:[0, 2]", "--json")
    result = run(*words)
    assert result.code == 0, result.err
    wires = {wire["name"]: wire for wire in json.loads(result.out)["wires"]}
    assert wires["logits"]["value"]["entries"] == [[1, 2.5, -3], [0, 0, 1]]
    assert wires["logits"]["gradient_error"]["ulp"] < 3
    assert (wires["labels"]["dtype"], wires["labels"]["gradient"]) == ("int32", None)
    result = run("circuit", f"{FILE}:naive_variance", "f32[3]", "--seed", 1)
    assert result.code == 0, result.err
    assert "[3] norm" in result.out


def test_what_is_inside_of_gates_is_printed_on_request(run):
    words = ("circuit", f"{FILE}:hidden", 0.5)
    assert "sin" not in run(*words).out
    assert "sin" in run(*words, "--open").out


def test_pictures_and_pages_are_written(run, tmp_path):
    svg, html = tmp_path / "f.svg", tmp_path / "f.html"
    result = run("circuit", f"{FILE}:rational", 3, -4, "--svg", svg, "--html", html)
    assert result.code == 0, result.err
    assert svg.read_text().startswith("<svg")
    assert "<details" in html.read_text()
    assert run("circuit", f"{FILE}:rational", 3, -4, "--svg", tmp_path / "no" / "f.svg").code == 2


def test_stages_are_python(run):
    result = run("circuit", f"{FILE}:rational", 3, -4, "--stages")
    assert result.code == 0, result.err
    exec(result.out, namespace := {})
    assert float(namespace["dx"]) == pytest.approx(2.0596, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rational", "3", "four"), "'four' is no argument"),
        (("rational", "[3", "4"), "'[3' is no argument"),
        (("rational", "q9:3", "4"), "no dtype called 'q9'"),
        (("rational", "i32:0.5", "4"), "int32 cannot hold it"),
        (("rational", "i32:[3000000000]", "4"), "int32 cannot hold it"),
        (("rational", "3"), "cannot be traced"),
        (("rationale", "3", "4"), "did you mean 'rational'"),
    ],
)
def test_what_is_wrong_is_a_sentence(run, words, said):
    result = run("circuit", f"{FILE}:{words[0]}", *words[1:])
    assert result.code == 2
    assert said in result.err

"""`jaxbp compile`: its record, its exit status, and that it finds out early what would lose its work."""

import json

import pytest

from jaxbp.cli import ahead


@pytest.fixture
def compiler(monkeypatch):
    """A compiler that is at hand, and says of every op what the test says."""
    asked = []

    def says(**row):
        def compile_all(tasks, tell):
            for task in tasks:
                tell(task.op)
                asked.append(task.op)
                about = {"op": task.op, "case": "memory", "dtype": task.dtype, "target": task.target}
                yield [
                    {**about, "engine": engine, "mode": mode, "peak_bytes": 64.0, "status": "ok", "reason": "", **row}
                    for engine in ("rule:a", "autodiff")
                    for mode in ("fwd_bwd", "fwd_res", "bwd")
                ]

        monkeypatch.setattr(ahead, "compile_all", compile_all)

    monkeypatch.setattr(ahead, "import_extra", lambda module, extra: None)
    says()
    return says, asked


@pytest.mark.parametrize("target", ["v5p", "h100"])
def test_it_writes_the_record_of_a_chip(run, compiler, tmp_path, target):
    result = run("compile", "--ops", "exp,log", "--target", target, "--out", tmp_path)
    folder = tmp_path / "ahead" / target
    assert result.code == 0
    assert f"Report: {folder / 'report.md'}" in result.out
    assert compiler[1] == ["exp", "log"]
    assert "No rule needs more memory" in (folder / "report.md").read_text()
    assert json.loads((folder / "machine.json").read_text())["versions"]["jax"]


def test_what_could_not_be_compiled_makes_the_exit_status(run, compiler, tmp_path):
    compiler[0](status="failed", reason="ValueError: no")
    result = run("compile", "--ops", "exp", "--out", tmp_path)
    assert result.code == 1
    assert "ValueError: no" in result.out


def test_a_folder_that_cannot_be_written_is_found_out_before_anything_is_compiled(run, compiler, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("compile", "--ops", "exp", "--out", tmp_path / "file")
    assert (result.code, compiler[1]) == (2, [])
    assert "cannot be written" in result.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--target", "v5"], "There is no chip called 'v5'"),
        (["--ops", "sigmod"], "did you mean 'sigmoid'"),
        (["--dtypes", ","], "--dtypes names no dtype"),
    ],
)
def test_bad_requests_are_sentences(run, words, sentence):
    result = run("compile", *words)
    assert result.code == 2
    assert sentence in result.err

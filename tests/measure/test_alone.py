"""Two measurements at once are refused, whoever asks, and a process that is killed leaves the machine free."""

import subprocess
import sys

import pytest

from jaxbp.errors import UsageError
from jaxbp.measure.alone import alone


@pytest.mark.parametrize(
    "words",
    [["bench", "--quick", "--ops", "exp"], ["bench", "rules.py:f", "f32[3]"], ["selftest", "--measure"]],
)
def test_a_second_measurement_is_refused_before_it_writes_anything(run, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    with alone():
        result = run(*words)
    assert result.code == 2
    assert result.err.startswith("jaxbp: Another measurement is under way on this machine (process ")
    assert list(tmp_path.iterdir()) == []


def test_the_machine_is_free_again_after_a_measurement_and_after_one_that_failed():
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone():
            raise ZeroDivisionError
    with alone():
        pass


def test_a_killed_process_leaves_the_machine_free():
    program = (
        "import time; from jaxbp.measure.alone import alone\nwith alone(): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=rf"process {process.pid}\)"), alone():
            pass
    finally:
        process.kill()
        process.communicate()
    with alone():
        pass

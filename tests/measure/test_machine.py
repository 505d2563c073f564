"""What a run says about its machine: hardware and versions, nothing personal; and how noisy it is."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from jaxbp import environment
from jaxbp.measure import machine
from jaxbp.measure.machine import Noise, describe_machine, git_commit, measure_noise, now


@pytest.fixture(scope="module")
def described():
    """The description, made where host, user and folders have names that would be recognized."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("USER", "LOGNAME", "HOSTNAME"):
            patch.setenv(name, "planted-name")
        patch.setenv("HOME", "/home/planted-name")
        for function in ("platform.node", "socket.gethostname", "getpass.getuser", "os.getlogin"):
            patch.setattr(function, lambda: "planted-name")
        uname = os.uname()
        patch.setattr("os.uname", lambda: os.uname_result((uname[0], "planted-name", *uname[2:])))
        patch.setenv("XLA_FLAGS", "--xla_dump_to=/home/planted-name/dump --xla_cpu_enable_fast_math=false")
        patch.setenv("OMP_NUM_THREADS", "2")
        patch.delenv("JAX_DEFAULT_MATMUL_PRECISION", raising=False)
        return describe_machine.__wrapped__()  # Not the cached one.


def test_it_is_json(described):
    assert json.loads(json.dumps(described)) == described


def test_it_names_hardware_and_versions(described):
    assert re.fullmatch(r"[a-z0-9-]+", described["name"])
    assert described["name"].endswith(f"{described['cores']}-core")
    assert described["cores"] >= 1
    assert 2**28 < described["memory_bytes"] < 2**50
    for package in ("jaxbp", "jax", "jaxlib", "numpy"):
        assert described["versions"][package] == importlib.metadata.version(package)


def test_flags_are_recorded_where_set(described):
    assert described["variables"]["XLA_FLAGS"] == "--xla_dump_to=<path> --xla_cpu_enable_fast_math=false"
    assert described["variables"]["OMP_NUM_THREADS"] == "2"
    assert "JAX_DEFAULT_MATMUL_PRECISION" not in described["variables"]


def test_nothing_in_it_is_personal(described):
    text = json.dumps(described)
    assert "planted-name" not in text
    # No value is, or holds, an absolute path.
    assert not re.search(r"(?<!\w)/\w+/", text)


def test_now_is_utc_to_the_second():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", now())


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a committed jaxbp in it, from which the module believes to run."""
    module = tmp_path / "jaxbp" / "measure" / "machine.py"
    module.parent.mkdir(parents=True)
    module.touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "all of it")
    monkeypatch.setattr(machine, "__file__", str(module))
    return tmp_path


def test_the_commit_is_that_of_the_checkout(checkout):
    commit = git_commit()
    assert commit is not None
    assert len(commit) == 12
    assert git(checkout, "rev-parse", "HEAD").startswith(commit)


def test_uncommitted_changes_of_the_package_are_marked(checkout):
    clean = git_commit()
    (checkout / "notes.txt").write_text("beside the package")
    assert git_commit() == clean
    (checkout / "jaxbp" / "op.py").write_text("x = 1\n")
    assert git_commit() == f"{clean}+"


def test_installed_into_another_repository_there_is_no_commit(checkout, monkeypatch):
    module = checkout / "env" / "site-packages" / "jaxbp" / "measure" / "machine.py"
    module.parent.mkdir(parents=True)
    module.touch()
    monkeypatch.setattr(machine, "__file__", str(module))
    assert git_commit() is None


def test_outside_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(checkout / "nowhere"))
    assert git_commit() is None
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.setenv("PATH", "")  # No git at all.
    assert git_commit() is None


@pytest.mark.parametrize(
    ("load", "spread", "expected"),
    [(0.1, 0.05, "quiet"), (0.1, 0.2, "noisy"), (2.0, 0.05, "busy"), (2.0, 0.2, "busy"), (float("nan"), 0.0, "quiet")],
)
def test_noise_verdicts(load, spread, expected):
    assert Noise(load, spread).verdict == expected


@pytest.mark.parametrize(("costs", "spread"), [([0.001], 0.0), ([0.001] * 20 + [0.0015] * 10, 0.5)])
def test_a_planted_wobble_is_measured(monkeypatch, costs, spread):
    class Clock:
        now, calls = 0.0, 0

        @classmethod
        def perf_counter(cls) -> float:
            return cls.now

        @classmethod
        def exp(cls, x: np.ndarray) -> None:
            cls.now += costs[cls.calls % len(costs)]
            cls.calls += 1

    monkeypatch.setattr(machine, "time", Clock)
    monkeypatch.setattr(np, "exp", Clock.exp)
    noise = measure_noise(2.0)
    assert noise.spread == pytest.approx(spread, abs=1e-9)
    assert Clock.calls > 1000
    assert noise.load >= 0


@pytest.fixture
def plugin(monkeypatch):
    """A machine with a plugin for accelerators, whose process prints what the test says."""
    monkeypatch.setattr(environment.importlib.metadata, "entry_points", lambda group: [group])

    def printing(code: int, text: str) -> None:
        done = subprocess.CompletedProcess([], code, text, "")
        # Not `subprocess.run` itself, by which Python's `platform` asks for the processor, once a process.
        monkeypatch.setattr(environment, "subprocess", types.SimpleNamespace(run=lambda command, **options: done))

    environment.accelerators.cache_clear()
    yield printing
    environment.accelerators.cache_clear()


def test_accelerators_are_found_by_a_process_of_its_own(plugin):
    plugin(0, 'a plugin that talks\n["NVIDIA H100", "NVIDIA H100"]\n')
    assert environment.accelerators() == ("NVIDIA H100", "NVIDIA H100")
    described = describe_machine.__wrapped__()
    assert described["accelerators"] == "NVIDIA H100, NVIDIA H100"
    assert described["name"].endswith("-core-2-nvidia-h100")


@pytest.mark.parametrize(("code", "text"), [(0, "[]\n"), (1, "")])
def test_a_plugin_without_its_device_is_no_accelerator(plugin, code, text):
    plugin(code, text)
    assert environment.accelerators() == ()


def test_where_there_is_none_nothing_is_said_of_it(described):
    assert environment.accelerators() == ()
    assert "accelerators" not in described


def test_the_process_that_looks_finds_no_accelerator_here():
    done = subprocess.run([sys.executable, "-c", environment.FIND], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

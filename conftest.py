"""`pytest` runs the tests; `pytest --benchmark` runs the benchmarks under bench/ in their place."""

from pathlib import Path

import pytest

from jaxbp.environment import cores


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("jaxbp")
    group.addoption("--benchmark", action="store_true", help="Run the benchmarks under bench/, not the tests.")
    group.addoption("--dtypes", default="f32", help="With --benchmark: f32, f64, bf16, f16, separated by commas.")
    group.addoption("--out", default="results", help="With --benchmark: folder of all results, as --out=DIR.")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--benchmark"):
        return
    if config.args_source is config.ArgsSource.TESTPATHS:
        config.args = [str(Path(__file__).parent / "bench")]


@pytest.hookimpl(optionalhook=True)  # Known where pytest-xdist is installed.
def pytest_xdist_auto_num_workers() -> int:
    """As many as this process has cores; each holds JAX and what it has compiled in memory."""
    return min(cores(), 8)

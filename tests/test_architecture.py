"""The house holds: imports point upwards only, and `import jaxbp` brings in nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxbp"

#: Each may import those before it. What has no row of its own is a leaf: it may import nothing of ours.
ORDER = [
    {"errors", "floats", "broadcasting", "environment", "promotion", "jaxprs", "devices", "programs"},
    {"elementary", "fusion", "products"},
    {"numerics"},
    {"gating", "quadrants", "real_powers"},
    {"gating_references"},
    {"blocks", "cases", "declaration"},
    {"kernels"},
    {"classes"},
    {"op"},
    {"ops"},
    {"differences"},
    {"engines"},
    {"accuracy"},
    {"check"},
    {"measure"},
    {"training"},  # It times its steps.
    {"sharding"},  # Its layers and steps are divided among devices.
    {"cluster"},
    {"circuit"},
    {"report"},
    {"terminal"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
HEAVY = (
    "pandas",
    "matplotlib",
    "pyarrow",
    "rich",
    "typer",
    "scipy.stats",
    "sklearn",
    "optax",
    "flint",
    "torch",
    "psutil",
)


def rooms_imported(source: str) -> set[str]:
    """The rooms of jaxbp that a module's source imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError("Relative imports hide which way they point; write them in full.")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jaxbp":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("jaxbp.")}
    return found


def offences(room: str, module: str, source: str) -> set[str]:
    """The imports of a module that do not point upwards."""
    imported = rooms_imported(source)
    if room == "ops" and module != "__init__":
        return {name for name in imported if LEVEL[name] >= LEVEL["ops"]}
    return {name for name in imported - {room} if LEVEL[name] >= LEVEL[room]}


def modules() -> list[tuple[str, Path]]:
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    return [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in files]


@pytest.mark.parametrize(("room", "path"), modules(), ids=str)
def test_imports_point_upwards(room, path):
    assert room in LEVEL, f"{path.name} has no place in ORDER"
    assert not offences(room, path.stem, path.read_text())


def test_a_downward_import_is_caught():
    assert offences("op", "op", "from jaxbp.engines import make_engine") == {"engines"}
    assert offences("measure", "task", "def f():\n    import jaxbp.report.frames") == {"report"}
    assert offences("ops", "linear", "from jaxbp.ops.arithmetic import add") == {"ops"}
    with pytest.raises(ValueError, match="Relative imports"):
        offences("accuracy", "ulp", "from ..report import frames")
    assert not offences("report", "frames", "from jaxbp.measure.verdict import verdict")


def test_nothing_but_the_command_line_prints():
    printing = {
        room
        for room, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing == {"cli", "terminal"}


def test_import_jaxbp_is_light():
    program = f"import jaxbp, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_process_that_measures_starts_without_statistics():
    """A run starts several of them; scipy.stats takes as long to load as JAX."""
    program = "import jaxbp.measure.worker, jaxbp.measure.resident, sys; print('scipy.stats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_modules_stay_small():
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for _, path in modules()}
    assert {name: lines for name, lines in lengths.items() if lines > 420} == {}

"""What `jaxbp train` does: what it is asked for, checked, and the tasks that follow."""

import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Any, Literal

from jaxbp.differences import evaluations
from jaxbp.engines import Owner
from jaxbp.errors import UsageError, unknown_name
from jaxbp.measure.timer import Budget
from jaxbp.measure.verdict import LEAST_ROUNDS
from jaxbp.training.data import CLASSES, PIXELS, load_examples
from jaxbp.training.descent import OPTIMIZERS, RATES, SCHEDULES, Setting
from jaxbp.training.gradients import ENGINES, NUMERICAL, owner_of
from jaxbp.training.models import LOSSES, MODELS
from jaxbp.training.search import METHODS

What = Literal["yardstick", "descent", "step", "growth", "search", "rates"]

#: How the command line writes a batch of all images.
FULL = "full"


@dataclasses.dataclass(frozen=True)
class Level:
    """How thorough a run is.

    Attributes:
        steps: of each descent, where none are asked for.
        rows: so many examples the numerical gradient evaluates in one descent, which ends after as many steps as that
            allows: two evaluations of a batch for every weight and step.
        budget: of the engines whose times are compared.
        slow_budget: of the numerical one.
        widths: hidden units at which the growth of a gradient's cost is measured.
        evaluations: of the loss, for each search.
        rate_steps: with each learning rate.
    """

    steps: int
    rows: int
    budget: Budget
    slow_budget: Budget
    widths: tuple[int, ...]
    evaluations: int
    rate_steps: int


LEVELS = {
    "standard": Level(
        1000,
        25_000_000,
        Budget(2.0, LEAST_ROUNDS, 2000),
        Budget(0.5, 3, 31),
        (2, 4, 8, 16, 32, 64),
        1331,
        100,
    ),
    "quick": Level(200, 5_000_000, Budget(0.2, LEAST_ROUNDS, 200), Budget(0.05, 1, 5), (2, 8, 32), 121, 20),
}
#: Class templates whose multiples are searched for; None: all weights.
DIMENSIONS = (1, 2, 3, None)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of `jaxbp train`; every combination of the lists is a descent of each engine.

    Raises:
        UsageError: a name that does not exist, or a number that makes no sense.
    """

    level: str = "standard"
    losses: tuple[str, ...] = tuple(LOSSES)
    models: tuple[str, ...] = tuple(MODELS)
    engines: tuple[str, ...] = ENGINES
    schedules: tuple[str, ...] = SCHEDULES
    batches: tuple[int | None, ...] = (None, 128)
    optimizer: str = "sgd"
    rate: float | None = None
    steps: int | None = None
    strength: float = 1e-3
    hidden: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        _require_known("loss", self.losses, LOSSES)
        _require_known("model", self.models, MODELS)
        _require_known("engine of training", self.engines, ENGINES)
        _require_known("schedule", self.schedules, SCHEDULES)
        _require_known("optimizer", (self.optimizer,), OPTIMIZERS)
        if not self.batches:
            raise UsageError("--batch names no size; give some, such as 128, or full for all images.")
        images = load_examples(0)[0].labels.size
        for batch in self.batches:
            if batch is not None and not 1 <= batch <= images:
                raise UsageError(
                    f"A batch has 1 to {images} images, as many as there are for training, not {batch}; "
                    f"--batch {FULL} takes all of them."
                )
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise UsageError(f"The learning rate must be a positive number, not {self.rate:g}.")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"A descent takes at least one step, not {self.steps}.")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise UsageError(f"The strength of the penalty must be 0 or a positive number, not {self.strength:g}.")
        if self.hidden < 1:
            raise UsageError(f"The network needs at least one hidden unit, not {self.hidden}.")
        if self.seed < 0:
            raise UsageError(f"The seed must be 0 or a positive integer, not {self.seed}.")

    def to_json(self) -> dict[str, Any]:
        """As `machine.json` keeps it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> "Request":
        """Back from `machine.json`."""
        fields: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in held.items()}
        return cls(**fields)


def _require_known(kind: str, given: Collection[str], known: Collection[str]) -> None:
    if not given:
        raise UsageError(f"Name at least one {kind}: {', '.join(known)}.")
    for name in given:
        if name not in known:
            raise unknown_name(kind, name, known)


@dataclasses.dataclass(frozen=True)
class Task:
    """What one process does in one go.

    Attributes:
        what: which part of the experiment.
        owner: whose process.
        engines: whose gradients; none where there is no choice.
        setting: what is learned.
        level: whose budgets.
        dims: of a search, its space: so many class templates, None for all weights.
        method: of a search.
    """

    what: What
    owner: Owner
    engines: tuple[str, ...]
    setting: Setting
    level: str
    dims: int | None = None
    method: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the journal keeps it."""
        return {**dataclasses.asdict(self), "engines": list(self.engines)}

    @property
    def name(self) -> str:
        """For the bar."""
        kind = self.method or ", ".join(self.engines) or self.owner
        return f"{self.what}: {self.setting.model} {self.setting.loss}, {kind}"


def batch_text(batch: int | None) -> str:
    """A batch as the command line writes it."""
    return FULL if batch is None else str(batch)


def weights_of(setting: Setting) -> int:
    """How many weights the model has."""
    if setting.model == "linear":
        return (PIXELS + 1) * CLASSES
    return (PIXELS + 1 + CLASSES) * setting.hidden


def affordable_steps(setting: Setting, engine: str, level: Level) -> int:
    """How many of a setting's steps an engine takes: all, but for the numerical one."""
    if engine != NUMERICAL:
        return setting.steps
    rows = setting.batch or load_examples(setting.seed)[0].labels.size
    return max(1, min(setting.steps, level.rows // (rows * evaluations(weights_of(setting), "central"))))


def settings(request: Request) -> list[Setting]:
    """Every combination that is asked for."""
    return [
        Setting(
            model=model,
            loss=loss,
            batch=batch,
            optimizer=request.optimizer,
            schedule=schedule,
            rate=request.rate or RATES[request.optimizer, model, loss],
            steps=request.steps or LEVELS[request.level].steps,
            strength=request.strength,
            hidden=request.hidden,
            seed=request.seed,
        )
        for model in request.models
        for loss in request.losses
        for batch in request.batches
        for schedule in request.schedules
    ]


def plan(request: Request) -> list[Task]:
    """All tasks, in the order in which they are done."""
    return list(_tasks(request))


def _tasks(request: Request) -> Iterator[Task]:
    asked, level = settings(request), request.level
    by_owner: dict[Owner, tuple[str, ...]] = {}
    for engine in request.engines:
        by_owner[owner_of(engine)] = (*by_owner.get(owner_of(engine), ()), engine)
    # One of each model and loss, whatever else sets them apart.
    pairs = {(setting.model, setting.loss): setting for setting in reversed(asked)}
    for setting in reversed(pairs.values()):
        yield Task("yardstick", "numpy", (), setting, level)
    for setting in asked:
        for engine in request.engines:
            yield Task("descent", owner_of(engine), (engine,), setting, level)
    for setting in asked:
        if setting.schedule == asked[0].schedule:
            for owner, engines in by_owner.items():
                yield Task("step", owner, engines, setting, level)
    for width in LEVELS[level].widths:
        # A batch of the network with the first loss.
        setting = Setting("two-layer", request.losses[0], 128, hidden=width, seed=request.seed)
        for owner, engines in by_owner.items():
            yield Task("growth", owner, engines, setting, level)
    for loss in request.losses:
        setting = Setting(loss=loss, rate=RATES["sgd", "linear", loss], strength=request.strength, seed=request.seed)
        for dims in DIMENSIONS:
            for method in METHODS:
                yield Task("search", "jax", (), setting, level, dims, method)
        jax_engines = [engine for engine in by_owner.get("jax", ()) if engine != NUMERICAL] or ["rule"]
        yield Task("rates", "jax", (jax_engines[0],), setting, level)

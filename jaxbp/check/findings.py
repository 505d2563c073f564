"""What a check found: findings as data, and the report that is made of them."""

import dataclasses
import json
from typing import Any

from jaxbp.errors import import_extra


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        kind: `value`, `gradient`, `second order`, `linearity`, `contract`, `determinism`, `transform`, `witness`, or
            `kink` and `precision`, which are faults only if they are asked to be.
        argument: the leaf whose cotangent it is about, as `args[0]['w']`, or the output, as `y`.
        index: the entry with the largest error; None where it is about no single entry.
        expected: what the entry should be.
        got: what it is.
        error: how far off, in units of what rounding alone may do there.
        entries: how many entries are off, of how many.
        looks_like: what it looks like, in a few words.
        inputs: the trial that showed it.
        text: all of this as a sentence.
        fault: whether it fails the check.
    """

    kind: str
    argument: str
    text: str
    index: tuple[int, ...] | None = None
    expected: float | None = None
    got: float | None = None
    error: float | None = None
    entries: tuple[int, int] | None = None
    looks_like: str = ""
    inputs: str = ""
    fault: bool = True

    def __str__(self) -> str:
        return self.text


class CheckFailedError(AssertionError):
    """A rule is wrong; its text is the report."""


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What `check_vjp` found.

    Attributes:
        name: the function's name.
        findings: faults first.
        checked: what was looked at: calls, and entries compared.
        residuals: by what is kept between forward and backward pass, its bytes.
        seconds: how long it took.
    """

    name: str
    findings: tuple[Finding, ...]
    checked: dict[str, int]
    residuals: tuple[tuple[str, int], ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether there is no fault."""
        return not any(finding.fault for finding in self.findings)

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that fail the check."""
        return tuple(finding for finding in self.findings if finding.fault)

    def __str__(self) -> str:
        verdict = "right" if self.passed else "WRONG"
        counts = ", ".join(f"{n:,} {what}" for what, n in self.checked.items())
        kept = f"{sum(size for _, size in self.residuals):,} bytes kept between forward and backward pass"
        lines = [f"{self.name}: {verdict} ({counts}; {kept}; {self.seconds:.1f} s)"]
        lines += [f"  {'fault' if f.fault else 'note'}: {f.text}" for f in self.findings]
        return "\n".join(lines)

    def to_frame(self) -> Any:
        """The findings as a pandas DataFrame, one row each; its columns are the attributes of `Finding`."""
        pandas = import_extra("pandas", "bench")
        fields = [field.name for field in dataclasses.fields(Finding)]
        return pandas.DataFrame([dataclasses.asdict(finding) for finding in self.findings], columns=fields)

    def to_json(self) -> str:
        """The report for another program."""
        return json.dumps({**dataclasses.asdict(self), "passed": self.passed}, indent=2)

    def raise_if_failed(self) -> "CheckReport":
        """Raise `CheckFailedError` if there is a fault; else the report itself."""
        if not self.passed:
            raise CheckFailedError(str(self))
        return self

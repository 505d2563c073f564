"""The answers of the page's table: of each op's default rule against autodiff, right? digits? faster? leaner?"""

import math
from collections.abc import Iterator
from typing import Any

from jaxbp.report import tables
from jaxbp.report.tables import Standing

Row = dict[str, Any]

#: The questions that the table answers, by the columns of their answers.
QUESTIONS = {
    "right": "Right?",
    "digits": "Digits?",
    **{mode: f"Faster? {mode}" for mode in tables.COMPARED},
    "memory": "Leaner?",
}
#: What the answers mean, as Markdown.
HOW_TO_ANSWER = f"""\
- **Right?** Every executable that is timed is first held against the float64 reference, and after its rounds again
  with other data. NO says that the default rule failed this at some case, and why.
- **Digits?** *more*, the *same* or *fewer* digits than autodiff in the worst gradient, at the op's largest case. Errors
  differ if one is at least {tables.ONE_BIT} times the other, a bit; up to {tables.ROUNDED} ULP both are rounded
  correctly.
- **Faster?** The verdict on the ratio of times, in one executable (fwd_bwd), in two passes (split), and
  in one executable with the value summed.
- **Leaner?** *leaner*, *same* or *heavier* than autodiff in the bytes kept between the passes and in the temporary
  memory of fwd_bwd; *mixed* where one is smaller and the other larger.
- **Pareto front**: no other engine is both faster and more accurate than those on the dashed line."""

GOOD = ("yes", "more", "faster", "leaner")
BAD = ("NO", "fewer", "slower", "heavier")
#: The place in order of what has no answer: after all that has. HTML's attributes know no infinity.
LAST = 1e99


def answers(found: Standing) -> dict[str, Row]:
    """The answer to each of `QUESTIONS`: a word, what it rests on, whether it is good news, and its place in order."""
    return dict(zip(QUESTIONS, _answers(found), strict=True))


def _answers(found: Standing) -> Iterator[Row]:
    timed = any(engine == found.rule for engine, _ in found.cells)
    yield _answer("NO" if found.wrong else "yes" if timed else "", found.wrong, float(bool(found.wrong)))

    ours, theirs = (found.ulp.get(engine, math.nan) for engine in (found.rule, "autodiff"))
    text = f"{tables.number(ours)} against {tables.number(theirs)} ULP" + " *" * (found.op in tables.SUMS)
    gain = max(ours, tables.ROUNDED) / max(theirs, tables.ROUNDED)
    yield _answer(found.digits(), text, gain)

    for mode in tables.COMPARED:
        cell = found.cells.get((found.rule, mode))
        if cell is None:
            yield _answer("", "", math.nan)
        else:
            yield _answer(found.faster(mode), tables.ratio(cell).removesuffix(found.faster(mode)), cell["ratio"])

    pairs = zip(("keep", "allocate"), found.memory(found.rule), found.memory("autodiff"), strict=True)
    known = {verb: (own, other) for verb, own, other in pairs if not math.isnan(own + other)}
    apart = [
        f"{verb}s {tables.size(own)}, autodiff {tables.size(other)}"
        for verb, (own, other) in known.items()
        if own != other
    ]
    alike = [f"both {verb} {tables.size(own)}" for verb, (own, _) in known.items()]
    ours, theirs = (sum(pair[i] for pair in known.values()) for i in (0, 1))
    yield _answer(found.leaner(), "; ".join(apart or alike), (ours + 1) / (theirs + 1))


def _answer(word: str, text: str, order: float) -> Row:
    tone = "good" if word in GOOD else "bad" if word in BAD else "even"
    # Infinite errors of both sides are the same.
    order = 1.0 if word == "same" and math.isnan(order) else min(order, LAST)
    return {"word": word, "text": text.strip() if word else "", "tone": tone, "order": order if word else LAST}

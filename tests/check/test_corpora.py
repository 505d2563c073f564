"""The checker finds wrong rules and leaves right ones alone: a sample of the corpora; `jaxbp selftest` does all."""

import collections

import pytest

import jaxbp
from tests.mutants import Mutant, judge, mutants, rights
from tests.mutants.mutant import differs
from tests.mutants.operators import OPERATORS

MUTANTS = mutants()
RIGHTS = rights()
#: How many diagnoses have to name the bug.
NAMED = 0.8
#: Checks of these take ten times as long as others, so that they stand for no operator that others have.
LONG = {"power", "gelu", "multiclass_hinge", "linear_cross_entropy", "mean_linear_cross_entropy", "attention"}


def sample() -> list[Mutant]:
    """Every third operator on one op, another op from operator to operator, and some of the hand-written rules."""
    by_operator = collections.defaultdict(list)
    for mutant in MUTANTS:
        by_operator["hand" if mutant.op == "hand" else mutant.name.split("/")[1]].append(mutant)
    by_hand = by_operator.pop("hand")
    groups = [[mutant for mutant in group if mutant.op not in LONG] or group for group in by_operator.values()]
    return [group[7 * i % len(group)] for i, group in enumerate(groups)][::3] + by_hand[::60]


SAMPLE = sample()


def test_the_corpora_are_as_large_as_they_claim():
    assert len(OPERATORS) >= 20
    assert len(MUTANTS) >= 300
    assert sum(mutant.op == "hand" for mutant in MUTANTS) >= 150
    assert len(RIGHTS) >= 450
    for items in (MUTANTS, RIGHTS):
        assert len({item.name for item in items}) == len(items)
    assert {mutant.op for mutant in MUTANTS} >= {op.name for op in jaxbp.OPS}


def test_wrong_rules_are_found_and_most_are_called_by_their_name():
    assert all(differs(mutant) for mutant in SAMPLE)
    outcomes = [judge(mutant) for mutant in SAMPLE]
    assert [o.name for o in outcomes if not o.flagged] == []
    misnamed = {o.name: o.said for o in outcomes if not o.named}
    assert len(misnamed) <= (1 - NAMED) * len(outcomes), misnamed


# One in forty, at the quick level: the whole corpus at its own level takes minutes.
@pytest.mark.parametrize("right", RIGHTS[3::40], ids=lambda right: right.name)
def test_a_right_function_is_left_alone(right):
    found = judge(right, level="quick")
    assert not found.flagged, found.said

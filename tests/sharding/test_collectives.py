"""What devices send each other, read from the text of a program: every kind, loops, groups, starts and ends."""

import pytest

from jaxbp.sharding.collectives import described, read_collectives, sent_bytes

ENTRY = """HloModule jit_f

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %a)
}}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {{
  %x = f32[8,4]{{1,0}} parameter(0), sharding={{devices=[8]<=[8]}}
  {}
}}
"""


def read(line, devices=4):
    return read_collectives(ENTRY.format(line), devices)


@pytest.mark.parametrize(
    ("line", "kind", "devices", "sent"),
    [
        ("ROOT %y = f32[8,4]{1,0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add", "all-reduce", 4, 192),
        ("ROOT %y = f32[8,4]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add", "all-reduce", 2, 128),
        ("ROOT %y = f32[8,4]{1,0} all-reduce(%x), replica_groups=[1,4]<=[4], to_apply=%add", "all-reduce", 4, 192),
        ("ROOT %y = f32[8,4]{1,0} all-reduce(%x), replica_groups={}, to_apply=%add", "all-reduce", 4, 192),
        ("%y = (f32[8,4]{1,0}, bf16[2]{0}) all-reduce(%x, %x), replica_groups={{0,1}}", "all-reduce", 2, 132),
        ("ROOT %y = f32[32,4]{1,0} all-gather(%x), replica_groups={{0,1,2,3}}, dimensions={0}", "all-gather", 4, 384),
        ("ROOT %y = f32[2,4]{1,0} reduce-scatter(%x), replica_groups=[1,4]<=[4]", "reduce-scatter", 4, 96),
        ("ROOT %y = f32[8,4]{1,0} all-to-all(%x), replica_groups={{0,1,2,3}}", "all-to-all", 4, 96),
        ("ROOT %y = f32[8,4]{1,0} collective-permute(%x), source_target_pairs={{0,1}}", "collective-permute", 4, 128),
        (
            "%s = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%x), replica_groups={{0,1,2,3}}",
            "all-gather",
            4,
            384,
        ),
        ("%s = f32[8,4]{1,0} all-reduce-start(%x), replica_groups={{0,1,2,3}}, to_apply=%add", "all-reduce", 4, 192),
    ],
)
def test_one_collective(line, kind, devices, sent):
    (found,) = read(line)
    assert (found.kind, found.devices, found.sent_bytes, found.times, found.exact) == (kind, devices, sent, 1, True)


@pytest.mark.parametrize(
    "line",
    [
        "ROOT %y = f32[8,4]{1,0} add(%x, %x)",
        "ROOT %y = f32[8,4]{1,0} all-reduce-done(%x)",
        "ROOT %y = f32[8,4]{1,0} all-reduce(%x), replica_groups={{0},{1},{2},{3}}, to_apply=%add",
    ],
)
def test_what_sends_nothing(line):
    assert read(line) == []


LOOP = """HloModule jit_f

%body (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %y = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
}

%condition (x: f32[8]) -> pred[] {
  ROOT %x = pred[] parameter(0)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %w = f32[8]{0} while(%x), condition=%condition, body=%bodyCOUNT
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    counted = LOOP.replace("COUNT", ', backend_config={"known_trip_count":{"n":"5"}}')
    found = read_collectives(counted, 2)
    assert (found[0].times, found[0].exact) == (5, True)
    assert sent_bytes(found) == 5 * 32
    assert described(found) == "5 all-reduce"


def test_a_loop_whose_length_nobody_knows_says_so():
    (found,) = read_collectives(LOOP.replace("COUNT", ""), 2)
    assert (found.times, found.exact) == (1, False)
    assert described([found]) == "at least 1 all-reduce"

"""Kernels and bytes of compiled programs: by hand from their text, and from what this version of XLA writes."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp.measure.traffic import Traffic, traffic

KIB = 1024

WHOLE = """
%double (x: f32[256]) -> f32[256] {
  %x = f32[256]{0} parameter(0)
  ROOT %y = f32[256]{0} add(%x, %x), metadata={op_name="jit(f)/add (of two)"}
}
"""
PART = """
%part (x: f32[8,256], i: s32[]) -> f32[256] {
  %x = f32[8,256]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,256]{1,0} dynamic-slice(%x, %i, %zero), dynamic_slice_sizes={1,256}
  ROOT %y = f32[256]{0} bitcast(%row)
}
"""
PUT = """
%put (x: f32[8,256], row: f32[1,256], i: s32[]) -> f32[8,256] {
  %x = f32[8,256]{1,0} parameter(0)
  %row = f32[1,256]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %y = f32[8,256]{1,0} dynamic-update-slice(%x, %row, %i, %zero)
}
"""
BODY = """
%body (state: (s32[], f32[8,256], f32[256])) -> (s32[], f32[8,256], f32[256]) {
  %state = (s32[], f32[8,256]{1,0}, f32[256]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %all = f32[8,256]{1,0} get-tuple-element(%state), index=1
  %start = ((f32[8,256]{1,0}, s32[]), f32[256]{0}, u32[]) fusion-start(%all, %i), kind=kLoop, calls=%part
  %one = f32[256]{0} fusion-done(%start)
  %two = f32[256]{0} fusion(%one), kind=kLoop, calls=%double
  ROOT %next = (s32[], f32[8,256]{1,0}, /*index=2*/f32[256]{0}) tuple(%i, %all, %two)
}
"""


def program(*computations, entry, arguments="a: f32[256]"):
    return "\n".join(
        ("HloModule jit_f", *computations, f"ENTRY %main ({arguments}) -> f32[256] {{", entry.strip("\n"), "}")
    )


def test_what_is_handed_over_twice_is_read_once():
    entry = """
  %a = f32[256]{0} parameter(0)
  %b = f32[256]{0} fusion(%a), kind=kLoop, calls=%double
  ROOT %c = (f32[256]{0}, pred[256]{0}) custom-call(%b, %b), custom_call_target="__triton"
"""
    assert traffic(program(WHOLE, entry=entry)) == Traffic(2, (2 + 1 + 1) * KIB + 256)


def test_parts_count_with_their_own_size():
    entry = """
  %a = f32[8,256]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %b = f32[256]{0} fusion(%a, %i), kind=kLoop, calls=%part
"""
    assert traffic(program(PART, entry=entry)) == Traffic(1, 2 * KIB + 4)
    entry = """
  %a = f32[8,256]{1,0} parameter(0)
  %row = f32[1,256]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %b = f32[8,256]{1,0} fusion(%a, %row, %i), kind=kLoop, calls=%put
"""
    assert traffic(program(PUT, entry=entry)) == Traffic(1, 2 * KIB + 4)


def test_parts_of_what_is_renamed_count_likewise_and_what_is_computed_is_not_in_place():
    seen = PART.replace("%x = f32[8,256]{1,0} parameter(0)", "%w = f32[2048]{0} parameter(0)").replace(
        "%zero =", "%x = f32[8,256]{1,0} bitcast(%w)\n  %zero ="
    )
    entry = """
  %a = f32[2048]{0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %b = f32[256]{0} fusion(%a, %i), kind=kLoop, calls=%part
"""
    assert traffic(program(seen, entry=entry)) == Traffic(1, 2 * KIB + 4)
    computed = PUT.replace("dynamic-update-slice(%x,", "dynamic-update-slice(%s,").replace(
        "%zero =", "%s = f32[8,256]{1,0} sine(%x)\n  %zero ="
    )
    entry = """
  %a = f32[8,256]{1,0} parameter(0)
  %row = f32[1,256]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %b = f32[8,256]{1,0} fusion(%a, %row, %i), kind=kLoop, calls=%put
"""
    assert traffic(program(computed, entry=entry)) == Traffic(1, (8 + 8 + 1) * KIB + 4)


def test_a_name_in_the_metadata_is_not_called():
    named = WHOLE.replace("add (of two)", "add calls=%double body=%double")
    entry = """
  %a = f32[256]{0} parameter(0)
  ROOT %b = f32[256]{0} fusion(%a), kind=kLoop, calls=%double, metadata={op_name="calls=%main"}
"""
    assert traffic(program(named, entry=entry)) == Traffic(1, 2 * KIB)


@pytest.mark.parametrize(
    ("times", "expected"),
    [(', backend_config={"known_trip_count":{"n":"5"}}', Traffic(10, 5 * (4 * KIB + 4))), ("", None)],
    ids=["known", "unknown"],
)
def test_loops_count_as_often_as_they_run(times, expected):
    entry = f"""
  %a = (s32[], f32[8,256]{{1,0}}, f32[256]{{0}}) parameter(0)
  %b = (s32[], f32[8,256]{{1,0}}, f32[256]{{0}}) while(%a), condition=%condition, body=%body{times}
  ROOT %c = f32[256]{{0}} get-tuple-element(%b), index=2
"""
    assert traffic(program(WHOLE, PART, BODY, entry=entry)) == expected


def test_a_text_that_is_no_program_is_a_sentence():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        traffic("HloModule nothing")


def compiled(f, *shapes):
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return traffic(jax.jit(f).lower(*args).compile().as_text() or "")


def test_programs_of_this_compiler():
    """The form of its text may change with a version; what these move does not."""
    assert compiled(lambda x: jnp.sin(x) * 2, (256,)) == Traffic(1, 2 * KIB)
    in_one, in_two = Traffic(1, 4 * KIB), Traffic(2, 6 * KIB)
    assert compiled(lambda x, y: (x + y, x * y), (256,), (256,)) in (in_one, in_two)
    copied = compiled(lambda x: jax.lax.fori_loop(0, 7, lambda i, s: jnp.sin(s), x), (256,))
    assert copied is not None
    assert copied.kernels >= 7
    assert 14 * KIB <= copied.bytes < 30 * KIB
    assert compiled(lambda x: jax.lax.while_loop(lambda s: jnp.sum(s) < 1, jnp.sin, x), (256,)) is None

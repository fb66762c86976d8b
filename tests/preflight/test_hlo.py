"""Reading compiled programs' text, on snippets in the form that libtpu writes."""

import pytest

from redundancy.preflight import hlo

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%a, %b)
}

%wrapped (p: bf16[8,16]) -> bf16[4,16] {
  %p = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %reduce-scatter.1 = bf16[4,16]{1,0:T(8,128)(2,1)} reduce-scatter(%p), channel_id=3, replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}, to_apply=%sum, metadata={op_name="jit(step)/scatter"}
}

%cond (s: (s32[], f32[64])) -> pred[] {
  %c = s32[]{:T(128)} constant(5)
  %s = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %c), direction=LT
}

%body (s: (s32[], f32[64])) -> (s32[], f32[64]) {
  %s = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  %x = f32[64]{0:T(128)} get-tuple-element(%s), index=1
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %y = f32[64]{0:T(128)} fusion(%x), kind=kLoop, calls=%double
  ROOT %t = (s32[]{:T(128)}, f32[64]{0:T(128)}) tuple(%i, %y)
}

ENTRY %main.5 (w: f32[100], g: bf16[50], x: bf16[8,16], s: (s32[], f32[64])) -> f32[100] {
  %w = f32[100]{0:T(128)} parameter(0)
  %g = bf16[50]{0:T(256)(2,1)} parameter(1)
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(2)
  %s = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(3)
  %all-reduce-start = (f32[100]{0:T(128)}, bf16[50]{0:T(256)(2,1)}) all-reduce-start(%w, %g), channel_id=1, replica_groups={{0,1},{2,3}}, use_global_device_ids=true, to_apply=%sum, metadata={op_name="jit(step)/grads"}
  %all-reduce-done = (f32[100]{0:T(128)}, bf16[50]{0:T(256)(2,1)}) all-reduce-done(%all-reduce-start)
  %async-start = ((bf16[8,16]{1,0}), bf16[4,16]{1,0}, u32[]{:S(2)}) async-start(%x), calls=%wrapped
  %async-done = bf16[4,16]{1,0} async-done(%async-start)
  %all-gather-start = (bf16[4,16]{1,0}, bf16[16,16]{1,0}) all-gather-start(%async-done), channel_id=4, replica_groups=[1,4]<=[4], dimensions={0}
  %all-gather-done = bf16[16,16]{1,0} all-gather-done(%all-gather-start)
  %permute = f32[100]{0:T(128)} collective-permute(%w), channel_id=5, source_target_pairs={{0,1},{1,0}}
  %tiny = f32[]{:T(128)} all-reduce(%loss), channel_id=6, replica_groups={}, to_apply=%sum
  %while = (s32[]{:T(128)}, f32[64]{0:T(128)}) while(%s), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %out = f32[100]{0:T(128)} get-tuple-element(%all-reduce-done), index=0
}
"""


def test_collectives_are_counted_once_with_bytes_and_groups():
    found = {of.kind: of for of in hlo.collectives(PROGRAM) if of.bytes}
    assert len(hlo.collectives(PROGRAM)) == 5
    assert found["all-reduce"] == hlo.Collective("all-reduce", 500, ((0, 1), (2, 3)), "jit(step)/grads")
    assert found["reduce-scatter"].bytes == 8 * 16 * 2
    assert found["reduce-scatter"].groups == ((0, 2), (1, 3))
    assert found["all-gather"].bytes == 16 * 16 * 2
    assert found["all-gather"].groups == ((0, 1, 2, 3),)
    assert found["collective-permute"].bytes == 400
    assert found["collective-permute"].groups == ((0, 1), (1, 0))


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={}", ()),
        ("replica_groups={{0}}", ((0,),)),
        ("replica_groups={{0, 2},{1, 3}}, dimensions={0}", ((0, 2), (1, 3))),
        ("replica_groups=[1,256]<=[256], to_apply=%sum", (tuple(range(256)),)),
        ("replica_groups=[3,2]<=[2,3]T(1,0)", ((0, 3), (1, 4), (2, 5))),
        ("replica_groups=[2,2,2]<=[8]", ((0, 1), (2, 3), (4, 5), (6, 7))),
    ],
)
def test_replica_groups_in_every_notation(text, groups):
    assert hlo.replica_groups(text) == groups


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ("f32[]{:T(128)}", [4]),
        ("bf16[64,14,14,1024]{3,0,2,1:T(8,128)(2,1)S(1)}", [64 * 14 * 14 * 1024 * 2]),
        ("(f32[2,3]{1,0}, (pred[7]{0}, u8[5]{0}), s32[]{:S(2)})", [24, 7, 5, 4]),
        ("(s4[6]{0}, f8e4m3fn[8]{0}, token[])", [3, 8, 0]),
    ],
)
def test_bytes_of_shapes(shape, sizes):
    assert hlo.num_bytes(shape) == sum(sizes)

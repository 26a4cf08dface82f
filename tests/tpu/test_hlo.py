"""Parsing the text of compiled programs."""

import pytest

from flaxcifar.tpu.hlo import Collective, Product, Program

# A program as printed by XLA: a loop of steps with a fused convolution, all-reduces, a conditional.
TEXT = """\
HloModule jit_steps, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused (p0: bf16[8,4,4,64], p1: bf16[3,3,64,100]) -> f32[8,4,4,100] {
  %p0 = bf16[8,4,4,64]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p1 = bf16[3,3,64,100]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %conv = f32[8,4,4,100]{3,2,1,0:T(8,128)} convolution(%p0, %p1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
}

%train (t: f32[4]) -> f32[4] {
  %t = f32[4]{0:T(128)} parameter(0)
  ROOT %work = f32[4]{0:T(128)} negate(%t), backend_config={"estimated_cycles":"1000"}
}

%look (l: f32[4]) -> f32[4] {
  ROOT %l = f32[4]{0:T(128)} parameter(0)
}

%inner (i: f32[4]) -> f32[4] {
  %i = f32[4]{0:T(128)} parameter(0)
  ROOT %once = f32[4]{0:T(128)} negate(%i), backend_config={"estimated_cycles":"5"}
}

%body (state: (f32[10], s32[])) -> (f32[10], s32[]) {
  %state = (f32[10]{0:T(128)}, s32[]{:T(128)}) parameter(0)
  %x = bf16[8,4,4,64]{3,2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=0
  %k = bf16[3,3,64,100]{3,2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %fusion = f32[8,4,4,100]{3,2,1,0:T(8,128)} fusion(%x, %k), kind=kOutput, calls=%fused, metadata={op_name="jit(steps)/conv"}, backend_config={"window_config":{"estimated_cycles":"640"}}
  %grad = f32[10]{0:T(128)} get-tuple-element(%state), index=2
  %loss = f32[]{:T(128)} get-tuple-element(%state), index=3
  %reduced = (f32[10]{0:T(128)}, f32[]{:T(128)}) all-reduce(%grad, /*index=1*/%loss), replica_groups={{0,1}}, to_apply=%add
  %start = f32[10]{0:T(128)} all-reduce-start(%grad), replica_groups={{0,1}}, to_apply=%add
  %done = f32[10]{0:T(128)} all-reduce-done(%start)
  %row = f32[4]{0:T(128)} fusion(%x), kind=kCustom, calls=%look, metadata={op_name="jit(steps)/while/body/gather"}
  %case = f32[4]{0:T(128)} conditional(%loss, %row, %row), branch_computations={%train, %look}
  %repeat = f32[4]{0:T(128)} while(%case), condition=%add, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %next = (f32[10]{0:T(128)}, s32[]{:T(128)}) tuple(%done, %loss)
}

ENTRY %main (p: f32[10]) -> (f32[10], s32[]) {
  %p = f32[10]{0:T(128)} parameter(0)
  %first = (f32[10]{0:T(128)}, s32[]{:T(128)}) tuple(%p, %p)
  %loop = (f32[10]{0:T(128)}, s32[]{:T(128)}) while(%first), condition=%add, body=%body
  ROOT %last = (f32[10]{0:T(128)}, s32[]{:T(128)}) all-reduce(%loop, %p), to_apply=%add
}

%after (z: f32[]) -> f32[] {
  ROOT %z = f32[]{:T(128)} parameter(0)
}
"""  # noqa: E501


@pytest.fixture
def program():
    return Program(TEXT, looped=True)


def test_a_step_is_the_body_of_the_loop_or_the_whole_program(program):
    assert program.step == "body"
    assert Program(TEXT, looped=False).step == "main"


def test_collectives_are_those_of_a_step_with_their_bytes(program):
    # The first reduces ten numbers and one, the second is asynchronous.
    assert program.collectives() == [
        Collective("all-reduce", 44, overlaps=False),
        Collective("all-reduce", 40, overlaps=True),
    ]


def test_products_inside_fusions_are_found(program):
    assert program.products() == [Product(rows=8 * 4 * 4, depth=3 * 3 * 64, columns=100)]


def test_cycles_count_branches_and_repetitions(program):
    assert program.cycles() == 640 + 1000 + 3 * 5
    assert program.not_estimated() == {"gather": 1}


def test_a_kernel_gradient_sums_over_images_and_pixels():
    text = """\
ENTRY %main (a: f32[16,8,8,3], b: f32[16,8,8,32]) -> f32[3,3,3,32] {
  %a = f32[16,8,8,3]{3,2,1,0} parameter(0)
  %b = f32[16,8,8,32]{3,2,1,0} parameter(1)
  ROOT %g = f32[3,3,3,32]{3,2,1,0} convolution(%a, %b), window={size=8x8}, dim_labels=f01b_i01o->01bf
}
"""  # noqa: E501
    found = Program(text, looped=False).products()
    assert found == [Product(rows=3 * 3 * 3, depth=16 * 8 * 8, columns=32)]


def test_padding_fills_whole_tiles():
    product = Product(rows=128, depth=576, columns=100)
    assert product.flops == 2 * 128 * 576 * 100
    assert product.padded_flops(128) == 2 * 128 * 640 * 128
    assert product.padded_flops(256) == 2 * 128 * 768 * 256
    assert Product(rows=1, depth=128, columns=128).padded_flops(128) == 2 * 8 * 128 * 128


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("%i = (f32[4], token[]) infeed(%t)", ["infeed i"]),
        ("%o = token[] outfeed(%x, %t), outfeed_config=\"\"", ["outfeed o"]),
        ("%s = (f32[4], u32[], token[]) send(%x, %t), is_host_transfer=true", ["send s"]),
        ("%r = (f32[4], token[]) recv-done(%t), is_host_transfer=true", ["recv-done r"]),
        ('%c = f32[4] custom-call(%x), custom_call_target="xla_python_cpu_callback"',
         ["custom-call c"]),
        ("%m = f32[4]{0:T(128)S(5)} copy(%x)", ["copy m"]),
        ("%m = f32[4]{0:T(128)S(1)} copy(%x)", []),
        ('%b = f32[4] custom-call(%x), custom_call_target="ConcatBitcast"', []),
    ],
)  # fmt: skip
def test_waiting_for_the_host_is_found(line, found):
    text = f"%inner (x: f32[4]) -> f32[4] {{\n  {line}\n}}\n\nENTRY %main () -> f32[] {{\n}}\n"
    assert Program(text, looped=False).host_transfers() == found

"""What is read out of XLA's text of a program for a GPU, by hand; no GPU is needed."""

import importlib.util
import subprocess
import sys
import types

import command
import pytest
import tiny
import tool

from radiovae_jax.vae import task

# As XLA writes it: a product within a fusion in a fusion, three ways of a convolution.
CONVOLUTION = (
    "custom-call({operands}), window={{size=3x3 pad=1_1x1_1}}, "
    'dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$conv{way}", '
    'metadata={{op_name="jit(step)/{way}"}}'
)
FORWARD, INPUT, FILTER = (
    CONVOLUTION.format(operands=operands, way=way)
    for operands, way in (
        ("%x, %k", "Forward"),
        ("%y, %k", "BackwardInput"),
        ("%x, %y", "BackwardFilter"),
    )
)
DOT = "dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
FUSION = "fusion(%a, %b), kind=kCustom, calls=%outer"
HLO = f"""HloModule jit_step

%inner (p0: bf16[64,32], p1: bf16[32,16]) -> bf16[64,16] {{
  %p0 = bf16[64,32]{{1,0}} parameter(0)
  %p1 = bf16[32,16]{{1,0}} parameter(1)
  ROOT %dot.1 = bf16[64,16]{{1,0}} {DOT}
}}

%outer (q0: bf16[64,32], q1: bf16[32,16]) -> bf16[64,16] {{
  %q0 = bf16[64,32]{{1,0}} parameter(0)
  %q1 = bf16[32,16]{{1,0}} parameter(1)
  ROOT %nested = bf16[64,16]{{1,0}} fusion(%q0, %q1), kind=kCustom, calls=%inner
}}

ENTRY %main (a: bf16[64,32], b: bf16[32,16]) -> bf16[64,16] {{
  %a = bf16[64,32]{{1,0}} parameter(0)
  %b = bf16[32,16]{{1,0}} parameter(1)
  %x = bf16[2,8,8,4]{{3,2,1,0}} parameter(2)
  %k = bf16[6,3,3,4]{{3,2,1,0}} parameter(3)
  %y = bf16[2,8,8,6]{{3,2,1,0}} parameter(4)
  %ahead = (bf16[2,8,8,6]{{3,2,1,0}}, u8[0]{{0}}) {FORWARD}
  %input = (bf16[2,8,8,4]{{3,2,1,0}}, u8[0]{{0}}) {INPUT}
  %filter = (bf16[6,3,3,4]{{3,2,1,0}}, u8[0]{{0}}) {FILTER}
  %moved = bf16[32,16]{{0,1}} copy(%b)
  ROOT %product = bf16[64,16]{{1,0}} {FUSION}, metadata={{op_name="jit(step)/attn"}}
}}
"""


hlo = tool.load("hlo")


@pytest.fixture(scope="module")
def kernels():
    return hlo.kernels_of(HLO)


def test_every_kernel_of_the_entry_is_counted_once(kernels):
    assert [(kernel.kind, kernel.layer) for kernel in kernels] == [
        ("conv", "jit(step)/Forward"),
        ("conv", "jit(step)/BackwardInput"),
        ("conv", "jit(step)/BackwardFilter"),
        ("copy", ""),
        ("dot", "jit(step)/attn"),
    ]


def test_a_convolution_costs_the_same_in_all_three_directions(kernels):
    # 2 x 3 x 3 x 4 operations for each of the 2 x 8 x 8 x 6 numbers of the result.
    assert [kernel.flops for kernel in kernels[:3]] == 3 * [72 * 768]
    assert {kernel.dtype for kernel in kernels[:3]} == {"bf16"}


def test_bytes_are_those_of_operands_and_results(kernels):
    x, k, y = 2 * 2 * 8 * 8 * 4, 2 * 6 * 3 * 3 * 4, 2 * 2 * 8 * 8 * 6
    assert [kernel.nbytes for kernel in kernels[:3]] == 3 * [x + k + y]
    assert kernels[3].nbytes == 2 * 2 * 32 * 16


def test_a_product_in_a_fusion_within_a_fusion_is_found(kernels):
    assert kernels[4].flops == 2 * 64 * 16 * 32
    assert kernels[4].nbytes == 2 * (64 * 32 + 32 * 16 + 64 * 16)


ALONE = "dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
CUBLAS = (
    'custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", backend_config='
    '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":'
    '["1"],"rhs_contracting_dimensions":["0"]}}}'
)
FUSED = "custom-call(%x, %k, %c), window={size=3x3 stride=2x2}, " + (
    'dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBiasActivationForward"'
)


def only(instruction: str, shape: str, **how):
    """Returns the kernel of a program that has one."""
    (kernel,) = hlo.kernels_of(
        f"""%it.together (c: f32[64,32], d: f32[32,16]) -> f32[64,16] {{
  %c.1 = f32[64,32]{{1,0}} parameter(0)
  %d.1 = f32[32,16]{{1,0}} parameter(1)
  ROOT %e.1 = f32[64,16]{{1,0}} {ALONE.replace("%a", "%c.1").replace("%b", "%d.1")}
}}

%it.convolved (f: bf16[2,9,9,4], g: bf16[6,3,3,4]) -> bf16[2,9,9,6] {{
  %f.1 = bf16[2,9,9,4]{{3,2,1,0}} parameter(0)
  %g.1 = bf16[6,3,3,4]{{3,2,1,0}} parameter(1)
  ROOT %h.1 = bf16[2,9,9,6]{{3,2,1,0}} convolution(%f.1, %g.1), window={{size=3x3}}
}}

ENTRY %main (a: f32[64,32], b: f32[32,16]) -> f32[64,16] {{
  %a = f32[64,32]{{1,0}} parameter(0)
  %b = f32[32,16]{{1,0}} parameter(1)
  %x = bf16[2,9,9,4]{{3,2,1,0}} parameter(2)
  %k = bf16[6,3,3,4]{{3,2,1,0}} parameter(3)
  %c = f32[6]{{0}} parameter(4)
  %s = f32[3,5,7]{{2,1,0}} parameter(5)
  %t = f32[3,7,6]{{2,1,0}} parameter(6)
  ROOT %it = {shape} {instruction}
}}
""",
        **how,
    )
    return kernel


BATCHED = "dot(%s, %t), lhs_batch_dims={0}, lhs_contracting_dims={2}, " + (
    "rhs_batch_dims={0}, rhs_contracting_dims={1}"
)


def test_products_of_a_batch_are_counted_for_every_one():
    kernel = only(BATCHED, "f32[3,5,6]{2,1,0}")
    assert kernel.flops == 3 * 2 * 5 * 6 * 7
    assert kernel.nbytes == 4 * 3 * (5 * 7 + 7 * 6 + 5 * 6)


def test_long_lists_are_read_over_xla_s_numbering():
    results = "(f32[5]{0}, /*index=1*/f32[6]{0})"
    kernel = only("fusion(%a, /*index=1*/%b), calls=%it.together", results)
    assert kernel.nbytes == 4 * (5 + 6 + 64 * 32 + 32 * 16)


@pytest.mark.parametrize("instruction", [ALONE, CUBLAS])
def test_products_of_matrices_are_counted_whoever_computes_them(instruction):
    kernel = only(instruction, "f32[64,16]{1,0}")
    assert (kernel.kind, kernel.dtype) == ("dot", "f32")
    assert kernel.flops == 2 * 64 * 16 * 32
    assert kernel.nbytes == 4 * (64 * 32 + 32 * 16 + 64 * 16)


def test_a_convolution_with_stride_bias_and_activation_is_one():
    kernel = only(FUSED, "(bf16[2,4,4,6]{3,2,1,0}, u8[0]{0})")
    assert (kernel.kind, kernel.flops) == ("conv", 72 * 2 * 4 * 4 * 6)


def test_kernels_that_are_started_together_are_counted_too():
    alone = only(ALONE, "f32[64,16]{1,0}")
    called = only("call(%a, %b), to_apply=%it.together", "f32[64,16]{1,0}")
    assert called == alone


@pytest.mark.parametrize(
    "instruction",
    [
        "while(%a), condition=%test, body=%work",
        "convolution(%x, %k), dim_labels=b01f_o01i->b01f",
        "fusion-start(%a), calls=%it.together",
        "fusion(%x, %k), calls=%it.convolved",
        "dot(%a, %b)",
        'custom-call(%a), custom_call_target="somebody_s_kernel"',
    ],
)
def test_what_cannot_be_counted_is_named(instruction):
    with pytest.raises(ValueError, match=r"cannot be counted|not understood"):
        only(instruction, "f32[64,32]{1,0}")
    kernel = only(instruction, "f32[64,32]{1,0}", strict=False)
    assert (kernel.kind, kernel.flops) == ("unknown", 0)
    assert "cannot be counted" in kernel.layer or "not understood" in kernel.layer


def test_a_plan_that_is_larger_than_what_jax_takes_of_the_card_says_so(planned):
    record = dict(
        peak_bytes=64e9,
        temporary_bytes=60e9,
        flops=1e12,
        accessed_bytes=1e11,
        kernels=3,
        floor_seconds=0.001,
        uncached_seconds=0.002,
        by_kind={},
    )
    said = {
        name: planned.page("step", 8, gpu, record) for name, gpu in planned.GPUS.items()
    }
    assert "DOES NOT FIT" in said["h100"]  # 0.75 of 84.9 GB are 63.7
    assert "DOES NOT FIT" not in said["h200"]
    assert "8000 images/s" in said["h200"]


class Compiled:
    """What a plan reads of a compiled program."""

    def as_text(self):
        return HLO

    def memory_analysis(self):
        return types.SimpleNamespace(
            argument_size_in_bytes=100,
            output_size_in_bytes=90,
            alias_size_in_bytes=80,
            temp_size_in_bytes=7,
        )


def test_a_plan_s_time_is_what_takes_longer_of_every_kernel(planned):
    gpu = planned.Gpu("by hand", memory=1000, bandwidth=1e6, peak=1e8)
    record = planned.record_of(Compiled(), gpu)
    assert record["peak_bytes"] == 100 + 90 - 80 + 7
    products, convolution = 2 * 64 * 16 * 32, 72 * 768
    assert record["flops"] == products + 3 * convolution
    assert record["floor_seconds"] == pytest.approx(record["flops"] / 1e8)
    # A convolution's bytes take 3.0 ms of this card, its operations 0.6.
    x, k, y = 2 * 2 * 8 * 8 * 4, 2 * 6 * 3 * 3 * 4, 2 * 2 * 8 * 8 * 6
    conv = record["by_kind"]["conv bf16"]
    assert conv["kernels"] == 3
    assert conv["seconds"] == pytest.approx(3 * (x + k + y) / 1e6)
    factors = 2 * (64 * 32 + 32 * 16 + 64 * 16)
    parts = 3 * (x + k + y) + 2 * 2 * 32 * 16 + factors
    assert record["accessed_bytes"] == parts
    assert record["uncached_seconds"] == pytest.approx(parts / 1e6)
    slow = planned.record_of(Compiled(), gpu._replace(bandwidth=1e12))
    assert slow["uncached_seconds"] == pytest.approx(record["floor_seconds"], rel=1e-3)


@pytest.fixture(scope="module")
def planned():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tool.TOOLS)  # it imports what is beside it
        return tool.load("planned")


def refused(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "tools/plan_gpu.py", "--config=configs/radio.py", *arguments],
        cwd=command.PROJECT,
        env=command.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "field", ["train.accumulate_steps=2", "loss.disc_conditional=True"]
)
def test_what_it_would_count_wrongly_is_refused(field):
    assert field.partition("=")[0] in refused(f"--config.{field}")


def test_a_phase_that_the_config_never_runs_is_refused():
    before = "--config.loss.discriminator_before_start=released"
    assert "never runs the autoencoder step" in refused("--phase=autoencoder", before)
    none = refused("--phase=adversarial", "--config.loss.disc_factor=0.0")
    assert "never runs the adversarial step: loss.disc_factor is 0.0" in none


@pytest.mark.parametrize(
    "before, factor, runs",
    [
        ("off", 1.0, {"autoencoder": False, "adversarial": True}),
        ("off", 0.0, {"autoencoder": False}),
        ("released", 1.0, {"adversarial": True}),
        ("released", 0.0, {"adversarial": True}),
    ],
)
def test_phases_are_those_that_the_loop_runs_with_some_disc_start(
    planned, before, factor, runs
):
    config = tiny.read("radio")
    config.loss.discriminator_before_start = before
    config.loss.disc_factor = factor
    assert planned.timed_step.phases_of(config, "both") == runs
    loop = set()
    for start in (0, config.train.steps):
        config.loss.disc_start = start
        loop.add(task.adversarial(config, 0))
    assert set(runs.values()) == loop


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is not None,
    reason="a plugin of JAX is installed, so there is a compiler",
)
def test_without_the_cuda_plugin_one_message_says_what_to_install():
    said = refused("--config.loss.perceptual_weight=0")
    assert "pip install 'jax[cuda13]'" in said, said

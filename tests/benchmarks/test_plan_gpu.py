"""What is read out of XLA's text of a program for a GPU, by hand; no GPU is needed."""

import importlib.util
import types

import command
import hlo
import plan_gpu
import pytest
import tiny

from radiovae_jax.vae import experiment

pytestmark = pytest.mark.benchmark

# As XLA writes it: a product within a fusion in a fusion, three ways of a convolution.
DOT = "dot(%{}, %{}), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}"
CONVOLUTION = (
    "custom-call({}), window={{size=3x3 {}}}, dim_labels=b01f_o01i->b01f, "
    'custom_call_target="__cudnn$conv{}", metadata={{op_name="jit(step)/{}"}}'
)
FORWARD, INPUT, FILTER = (
    CONVOLUTION.format(operands, "pad=1_1x1_1", way, way)
    for operands, way in (
        ("%x, %k", "Forward"),
        ("%y, %k", "BackwardInput"),
        ("%x, %y", "BackwardFilter"),
    )
)
HLO = f"""HloModule jit_step

%inner (p0: bf16[64,32], p1: bf16[32,16]) -> bf16[64,16] {{
  %p0 = bf16[64,32]{{1,0}} parameter(0)
  %p1 = bf16[32,16]{{1,0}} parameter(1)
  ROOT %dot.1 = bf16[64,16]{{1,0}} {DOT.format("p0", "p1")}
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
  ROOT %product = bf16[64,16]{{1,0}} fusion(%a, %b), kind=kCustom, calls=%outer, \
metadata={{op_name="jit(step)/attn"}}
}}
"""
X, K, Y = 2 * 2 * 8 * 8 * 4, 2 * 6 * 3 * 3 * 4, 2 * 2 * 8 * 8 * 6  # bytes
FACTORS = 2 * (64 * 32 + 32 * 16 + 64 * 16)
# 2 x 3 x 3 x 4 operations for each of the 2 x 8 x 8 x 6 numbers of the result.
WAY, PRODUCT = 72 * 768, 2 * 64 * 16 * 32


def test_every_kernel_of_the_entry_is_counted_once():
    # A convolution costs the same in all three directions.
    assert hlo.kernels_of(HLO) == [
        hlo.Kernel("conv", "bf16", WAY, X + K + Y, "jit(step)/Forward"),
        hlo.Kernel("conv", "bf16", WAY, X + K + Y, "jit(step)/BackwardInput"),
        hlo.Kernel("conv", "bf16", WAY, X + K + Y, "jit(step)/BackwardFilter"),
        hlo.Kernel("copy", "", 0, 2 * 2 * 32 * 16, ""),
        hlo.Kernel("dot", "bf16", PRODUCT, FACTORS, "jit(step)/attn"),
    ]


def only(instruction: str, shape: str, **how):
    """Returns the kernel of a program that has one."""
    text = f"""%it.together (c: f32[64,32], d: f32[32,16]) -> f32[64,16] {{
  %c.1 = f32[64,32]{{1,0}} parameter(0)
  %d.1 = f32[32,16]{{1,0}} parameter(1)
  ROOT %e.1 = f32[64,16]{{1,0}} {DOT.format("c.1", "d.1")}
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
"""
    (kernel,) = hlo.kernels_of(text, **how)
    return kernel


CUBLAS = (
    'custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", backend_config='
    '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":'
    '["1"],"rhs_contracting_dimensions":["0"]}}}'
)
FUSED = CONVOLUTION.format("%x, %k, %c", "stride=2x2", "BiasActivationForward", "")
BATCHED = (
    "dot(%s, %t), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, "
    "rhs_contracting_dims={1}"
)
PLAIN = ("f32[64,16]{1,0}", "dot", PRODUCT, 2 * FACTORS)


@pytest.mark.parametrize(
    "instruction, shape, kind, flops, nbytes",
    [
        (DOT.format("a", "b"), *PLAIN),
        (CUBLAS, *PLAIN),
        # Kernels that are started together.
        ("call(%a, %b), to_apply=%it.together", *PLAIN),
        # Every product of a batch.
        (
            BATCHED,
            "f32[3,5,6]{2,1,0}",
            "dot",
            3 * 2 * 5 * 6 * 7,
            4 * 3 * (5 * 7 + 7 * 6 + 5 * 6),
        ),
        # A convolution with stride, bias and activation.
        (
            FUSED,
            "(bf16[2,4,4,6]{3,2,1,0}, u8[0]{0})",
            "conv",
            72 * 2 * 4 * 4 * 6,
            2 * (2 * 9 * 9 * 4 + 6 * 3 * 3 * 4 + 2 * 4 * 4 * 6) + 4 * 6,
        ),
        # Long lists, which XLA numbers.
        (
            "fusion(%a, /*index=1*/%b), calls=%it.together",
            "(f32[64,16]{1,0}, /*index=1*/f32[6]{0})",
            "dot",
            PRODUCT,
            2 * FACTORS + 4 * 6,
        ),
    ],
)
def test_products_are_counted_whoever_computes_them(
    instruction, shape, kind, flops, nbytes
):
    kernel = only(instruction, shape)
    assert (kernel.kind, kernel.flops, kernel.nbytes) == (kind, flops, nbytes)


@pytest.mark.parametrize(
    "instruction",
    [
        "while(%a), condition=%test, body=%work",
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


def test_a_plan_s_time_is_what_takes_longer_of_every_kernel():
    memory = types.SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=90,
        alias_size_in_bytes=80,
        temp_size_in_bytes=7,
    )
    program = types.SimpleNamespace(as_text=lambda: HLO, memory_analysis=lambda: memory)
    gpu = plan_gpu.Gpu("by hand", memory=1000, bandwidth=1e6, peak=1e8)
    record = plan_gpu.record_of(program, gpu)
    assert record["peak_bytes"] == 100 + 90 - 80 + 7
    assert record["flops"] == PRODUCT + 3 * WAY
    assert record["floor_seconds"] == pytest.approx(record["flops"] / 1e8)
    # A convolution's bytes take 3.0 ms of this card, its operations 0.6.
    conv = record["by_kind"]["conv bf16"]
    assert conv["kernels"] == 3
    assert conv["seconds"] == pytest.approx(3 * (X + K + Y) / 1e6)
    assert record["accessed_bytes"] == 3 * (X + K + Y) + 2 * 2 * 32 * 16 + FACTORS
    assert record["uncached_seconds"] == pytest.approx(record["accessed_bytes"] / 1e6)
    slow = plan_gpu.record_of(program, gpu._replace(bandwidth=1e12))
    assert slow["uncached_seconds"] == pytest.approx(record["floor_seconds"], rel=1e-3)
    record |= {"peak_bytes": 64e9, "floor_seconds": 0.001}
    small, large = (
        plan_gpu.page("step", 8, plan_gpu.GPUS[name], record)
        for name in ("h100", "h200")
    )
    assert "DOES NOT FIT" in small  # 0.75 of 84.9 GB are 63.7
    assert "DOES NOT FIT" not in large and "8000 images/s" in large


ANOTHER = importlib.util.find_spec("jax_plugins") is not None


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.train.accumulate_steps=2"], "train.accumulate_steps"),
        (
            ["--phase=adversarial", "--config.loss.disc_factor=0.0"],
            "never runs the adversarial step: loss.disc_factor is 0.0",
        ),
        pytest.param(
            ["--config.loss.perceptual_weight=0"],
            "pip install 'jax[cuda13]'",
            marks=pytest.mark.skipif(ANOTHER, reason="a compiler is there"),
        ),
    ],
)
def test_what_it_would_count_wrongly_or_cannot_is_refused(
    monkeypatch, arguments, message
):
    for name in ("XLA_FLAGS", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK"):
        monkeypatch.setenv(name, "")  # to be put back: the command sets them
    done = command.call(plan_gpu, "--config=radio", *arguments)
    assert done.status == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    "before, factor, runs",
    [
        ("off", 1.0, {"autoencoder": False, "adversarial": True}),
        ("off", 0.0, {"autoencoder": False}),
        ("released", 1.0, {"adversarial": True}),
        ("released", 0.0, {"adversarial": True}),
    ],
)
def test_phases_are_those_that_the_loop_runs_with_some_disc_start(before, factor, runs):
    config = tiny.read("radio")
    config.loss.discriminator_before_start = before
    config.loss.disc_factor = factor
    assert plan_gpu.timed_step.phases_of(config, "both") == runs
    loop = set()
    for start in (0, config.train.steps):
        config.loss.disc_start = start
        loop.add(experiment.adversarial(config, 0))
    assert set(runs.values()) == loop

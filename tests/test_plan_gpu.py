"""What is read out of XLA's text of a program for a GPU, by hand; no GPU is needed."""

import importlib.util
import subprocess
import sys

import command
import pytest
import tool

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


@pytest.fixture(scope="module")
def kernels():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tool.TOOLS)  # it imports what is beside it
        plan_gpu = tool.load("plan_gpu")
    return plan_gpu.kernels_of(HLO)


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


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is not None,
    reason="a plugin of JAX is installed, so there is a compiler",
)
def test_without_the_cuda_plugin_one_message_says_what_to_install():
    done = subprocess.run(
        [sys.executable, "tools/plan_gpu.py", "--config=configs/quickstart.py"],
        cwd=command.PROJECT,
        env=command.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "pip install 'jax[cuda13]'" in done.stderr, done.stderr

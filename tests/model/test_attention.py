"""Attention back-ends agree with each other and with a plain masked softmax; those that cannot run
report it before anything is built or imported."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.arch.init import initialise
from model.attention import BACKENDS, choose, flash2, why_not
from model.attention.custom_op import FULL, as_operator
from model.config.derive import derive
from model.config.reader import load_config
from model.errors import MachineError
from model.gpt import GPT
from model.kernels import REFERENCE

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
REPOSITORY = Path(__file__).parents[2]
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # kernel packages warn as they import and compile
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()  # else the shapes of all tests add up to the limit of recompilations


def slow_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Query by query: a softmax over itself and the `window` keys before it."""
    rows = []
    for i in range(q.size(1)):
        first = max(0, i - window)
        scores = torch.einsum("bhk,bjhk->bhj", q[:, i], k[:, first : i + 1]) / q.size(-1) ** 0.5
        weights = scores.softmax(dim=-1)
        rows.append(torch.einsum("bhj,bjhk->bhk", weights, v[:, first : i + 1]))
    return torch.stack(rows, dim=1)


# --- fp32, the back-ends that take it ---

WINDOWS = [(128, 0), (128, 63), (200, 64), (200, 500)]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]


def inputs_of(tokens: int, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [torch.randn(2, tokens, 3, 16, generator=generator).to(device) for _ in range(4)]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["sdpa", "flex"])
@pytest.mark.parametrize(("tokens", "window"), WINDOWS)
def test_forward_equals_the_slow_reference(
    name: str, tokens: int, window: int, device: str
) -> None:
    q, k, v, _ = inputs_of(tokens, device)
    with torch.no_grad():
        got, expected = BACKENDS[name](q, k, v, window), slow_attention(q, k, v, window)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["sdpa", "flex"])
@pytest.mark.parametrize(("tokens", "window"), WINDOWS)
def test_gradients_equal_the_slow_reference(
    name: str, tokens: int, window: int, device: str
) -> None:
    problem = why_not(name, torch.device(device), 16, torch.float32)
    if problem is not None:
        pytest.skip(problem[0])
    *values, weight = inputs_of(tokens, device)
    gradients = []
    for function in (BACKENDS[name], slow_attention):
        inputs = [value.clone().requires_grad_() for value in values]
        gradients.append(torch.autograd.grad((function(*inputs, window) * weight).sum(), inputs))
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


# --- bf16 on a GPU, every back-end that runs there ---

Case = tuple[int, int, int, int]
ALL = 10**6
CASES: list[Case] = [  # T, window, H, K: every window with both head widths, T on and off the tile
    (256, 0, 1, 64),
    (200, 0, 2, 128),
    (384, 1, 3, 128),
    (333, 1, 4, 64),
    (512, 127, 5, 64),
    (600, 127, 6, 128),
    (1000, 512, 1, 64),
    (1024, 512, 6, 128),
    (777, ALL, 3, 64),
    (1024, ALL, 2, 128),
]
COMPILED_CASES = [CASES[3], CASES[7], CASES[8], CASES[9]]
LARGEST_ERROR = 1e-2  # relative norm; bf16 keeps 8 bits, so one rounding costs 2^-9


def bf16_inputs(case: Case) -> list[Tensor]:
    """q, k, v and the gradient of the output."""
    tokens, _, heads, width = case
    generator = torch.Generator().manual_seed(tokens + heads)
    shape = (2, tokens, heads, width)
    return [torch.randn(shape, generator=generator).to(CUDA, torch.bfloat16) for _ in range(4)]


@cache
def fp32_reference(case: Case) -> list[Tensor]:
    """Output and gradients of q, k, v by the slow reference."""
    *inputs, grad = (value.float() for value in bf16_inputs(case))
    inputs = [value.requires_grad_() for value in inputs]
    out = slow_attention(*inputs, case[1])
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def assert_close_to_reference(attend: object, case: Case) -> None:
    *inputs, grad = bf16_inputs(case)
    inputs = [value.requires_grad_() for value in inputs]
    out = attend(*inputs, case[1])  # type: ignore[operator]
    got = [out, *torch.autograd.grad(out, inputs, grad)]
    noise = 0.01 * grad.float().norm()  # window 0: no gradient reaches q and k
    for what, value, expected in zip(
        ["out", "dq", "dk", "dv"], got, fp32_reference(case), strict=True
    ):
        assert value.dtype == torch.bfloat16
        error = (value.float() - expected).norm() / torch.maximum(expected.norm(), noise)
        assert error <= LARGEST_ERROR, (what, case, error.item())


def skip_unless_it_runs(name: str, case: Case) -> None:
    problem = why_not(name, CUDA, case[3], torch.bfloat16)
    if problem is not None:
        pytest.skip(f"{name}: {problem[0]}")


@pytest.mark.parametrize("case", [pytest.param(case, marks=GPU) for case in CASES])
@pytest.mark.parametrize("name", BACKENDS)
def test_bf16_output_and_gradients_are_those_of_the_fp32_reference(name: str, case: Case) -> None:
    skip_unless_it_runs(name, case)
    assert_close_to_reference(BACKENDS[name], case)


@pytest.mark.parametrize("case", [pytest.param(case, marks=GPU) for case in COMPILED_CASES])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_compiled_graph_keeps_the_back_end_whole(name: str, case: Case) -> None:
    skip_unless_it_runs(name, case)
    compiled = torch.compile(BACKENDS[name], fullgraph=True, dynamic=False)
    assert_close_to_reference(compiled, case)


@pytest.mark.parametrize("name", [pytest.param(name, marks=GPU) for name in BACKENDS])
def test_heads_that_are_not_contiguous_are_taken(name: str) -> None:
    case = CASES[5]
    skip_unless_it_runs(name, case)

    def attend_transposed(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
        return BACKENDS[name](q, k, v, window)

    assert_close_to_reference(attend_transposed, case)


@pytest.mark.parametrize("width", [pytest.param(width, marks=GPU) for width in (64, 128)])
def test_auto_takes_no_flash_kernel_for_fp32(width: int) -> None:
    assert choose("auto", CUDA, width, torch.float32) in ("flex", "sdpa")


# --- the wrapper around kernels, with a kernel that runs on the CPU ---


def plain_forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    weights, lse = plain_weights(q, k, window)
    return torch.einsum("bhij,bjhk->bihk", weights, v).contiguous(), lse


def plain_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    weights, _ = plain_weights(q, k, window)
    dv = torch.einsum("bhij,bihk->bjhk", weights, grad)
    towards = torch.einsum("bihk,bjhk->bhij", grad, v)
    scores = weights * (towards - (weights * towards).sum(-1, keepdim=True)) / q.size(-1) ** 0.5
    dq = torch.einsum("bhij,bjhk->bihk", scores, k)
    dk = torch.einsum("bhij,bihk->bjhk", scores, q)
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


def plain_weights(q: Tensor, k: Tensor, window: int) -> tuple[Tensor, Tensor]:
    distance = torch.arange(q.size(1))[:, None] - torch.arange(q.size(1))
    seen = (distance >= 0) & ((distance <= window) | (window == FULL))
    scores = torch.einsum("bihk,bjhk->bhij", q, k) / q.size(-1) ** 0.5
    scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(dim=-1), scores.logsumexp(dim=-1)


plain_attend = as_operator("plain_test", plain_forward, plain_backward)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("tokens", "window"), [(24, 0), (24, 7), (24, 22), (24, 23), (24, 99)])
def test_a_wrapped_kernel_has_the_gradients_of_the_slow_reference(
    tokens: int, window: int, compiled: bool
) -> None:
    attend = plain_attend
    if compiled:
        attend = torch.compile(plain_attend, fullgraph=True, dynamic=False, backend="aot_eager")
    *values, weight = inputs_of(tokens, "cpu")
    results = []
    for function in (attend, slow_attention):
        inputs = [value.clone().requires_grad_() for value in values]
        out = function(*inputs, window)
        results.append([out, *torch.autograd.grad((out * weight).sum(), inputs)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_wrapped_kernel_keeps_torchs_rules_for_operators() -> None:
    q, k, v = (value[:, :12].contiguous().requires_grad_() for value in inputs_of(16, "cpu")[:3])
    for window in (FULL, 3):
        torch.library.opcheck(
            torch.ops.gpt2_ablations.plain_test_forward.default, (q, k, v, window)
        )


@pytest.mark.parametrize("name", ["flash2", "flash3", "flash4"])
def test_shapes_are_known_without_running_a_kernel(name: str) -> None:
    q, k, v = (
        torch.empty(2, 200, 3, 64, device="meta", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    out, lse = getattr(torch.ops.gpt2_ablations, f"{name}_forward")(q, k, v, 100)
    assert (out.shape, out.dtype) == (q.shape, torch.bfloat16)
    assert (lse.shape, lse.dtype) == ((2, 3, 200), torch.float32)
    attended = BACKENDS[name](q, k, v, 100)
    for gradient in torch.autograd.grad(attended, (q, k, v), torch.empty_like(attended)):
        assert (gradient.shape, gradient.dtype) == (q.shape, torch.bfloat16)


def test_torchs_flash_operators_take_what_flash2_hands_them() -> None:
    q = torch.empty(2, 200, 3, 64, device="meta", dtype=torch.bfloat16)
    out, lse = flash2._forward(q, q, q, 100)
    assert (out.shape, lse.shape) == (q.shape, (2, 3, 200))
    gradients = flash2._backward(out, q, q, q, out, lse, 100)
    assert [gradient.shape for gradient in gradients] == [q.shape] * 3


def test_the_model_hands_over_heads_of_one_type_in_the_kernels_layout() -> None:
    base = REPOSITORY / "ablations" / "configs" / "speedrun_tiny_cpu.yaml"
    config = load_config(base, {"system.precision": "bf16"})
    sizes = derive(config).sizes
    seen = []

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        seen.append({(tuple(x.shape), x.dtype, x.stride()[2:]) for x in (q, k, v)})
        return BACKENDS["sdpa"](q, k, v, window)

    model = GPT(config, sizes, REFERENCE)
    for block in model.blocks:
        block.attention.attend = attend
    initialise(model, seed=1)
    model.logits(torch.zeros(2, 32, dtype=torch.int64))
    shape, strides = (2, 32, sizes.heads, sizes.head_width), (sizes.head_width, 1)
    assert seen == [{(shape, torch.bfloat16, strides)}] * sizes.layers


# --- what cannot run ---


def test_auto_names_what_will_run() -> None:
    assert choose("auto", CPU, 128, torch.bfloat16) == "sdpa"
    assert why_not("sdpa", CPU, 128, torch.bfloat16) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flex", "no backward pass on the CPU. Set system.attention: sdpa."),
        ("flash2", "torch's FlashAttention-2 runs on a CUDA GPU only. Set system.attention: auto."),
        ("flash3", "FlashAttention-3 runs on a CUDA GPU only"),
        ("flash4", "expected flash4 to run here; got FlashAttention-4 runs on a CUDA GPU only"),
    ],
)
def test_a_back_end_without_its_device_is_refused_with_a_hint(name: str, message: str) -> None:
    with pytest.raises(MachineError, match=message):
        choose(name, CPU, 128, torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "capability", "width", "dtype", "problem"),
    [
        ("flash2", (7, 5), 64, torch.bfloat16, "this GPU has 7.5"),
        ("flash3", (10, 0), 64, torch.bfloat16, "compute capability 9.x, this GPU has 10.0"),
        ("flash4", (8, 0), 64, torch.bfloat16, "compute capability 9.x, 10.x, this GPU has 8.0"),
        ("flash4", (9, 0), 64, torch.float32, "in bf16 and fp16, not in torch.float32"),
        ("flash4", (9, 0), 192, torch.bfloat16, "multiples of 8 up to 128, not 192"),
        ("flash2", (9, 0), 60, torch.float16, "multiples of 8 up to 256, not 60"),
        ("flex", (7, 5), 64, torch.float32, "compute capability 8.0 or later"),
        ("flex", (9, 0), 8, torch.float32, "at least 16 channels, not 8"),
    ],
)
def test_gpu_number_format_and_heads_are_checked_before_a_package(
    name: str,
    capability: tuple[int, int],
    width: int,
    dtype: torch.dtype,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    before = set(sys.modules)
    reason, hint = why_not(name, CUDA, width, dtype) or ("", "")
    assert problem in reason
    assert "system.attention: " in hint
    assert not {name for name in set(sys.modules) - before if name.startswith("flash_attn")}


FAKE_PACKAGES = """
import importlib.util, sys, torch
from pathlib import Path
from model.attention import choose, why_not
from model.errors import MachineError

torch.cuda.get_device_capability = lambda device: (9, 0)
cpu, cuda = torch.device("cpu"), torch.device("cuda")
outer = Path(sys.argv[1]) / "flash_attn"
inner = outer / "cute"

def flash_modules():
    return [name for name in sys.modules if name.split(".")[0] == "flash_attn"]

def refusal_with(code):
    (inner / "interface.py").write_text(code)
    return refusal()

def refusal():
    for name in flash_modules():
        del sys.modules[name]
    importlib.invalidate_caches()
    try:
        choose("flash4", cuda, 128, torch.bfloat16)
    except MachineError as error:
        assert "Run: pip install" in str(error) and "or set system.attention: auto." in str(error)
        return str(error)

choose("auto", cpu, 128, torch.bfloat16)
choose("sdpa", cuda, 128, torch.bfloat16)
choose("flex", cuda, 128, torch.bfloat16)
why_not("flash4", cuda, 128, torch.float32)
assert not flash_modules(), flash_modules()

if importlib.util.find_spec("flash_attn") is None:
    assert "package flash-attn-4 is not installed" in refusal()
outer.mkdir()  # from here on this folder hides an installed one
(outer / "__init__.py").touch()
assert "package flash-attn-4 is not installed" in refusal()  # flash-attn 2 alone
inner.mkdir()
(inner / "__init__.py").touch()
message = refusal_with("import absent_library")
assert "broken here: ModuleNotFoundError: No module named 'absent_library'" in message, message
message = refusal_with("raise OSError('libcuda.so.1: cannot open')")
assert "broken here: OSError: libcuda.so.1: cannot open" in message, message
message = refusal_with("_flash_attn_fwd = print")
assert "has no attribute '_flash_attn_bwd'" in message, message
assert refusal_with("_flash_attn_fwd = _flash_attn_bwd = print") is None
assert "flash_attn.cute.interface" in flash_modules()
"""


def test_a_package_is_imported_on_request_and_a_broken_one_is_not_a_missing_one(
    tmp_path: Path,
) -> None:
    path = [str(tmp_path), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-B", "-c", FAKE_PACKAGES, str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_flash3_that_is_not_there_is_refused_without_a_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if any(map(installed, ("flash_attn_interface", "kernels"))):
        pytest.skip("FlashAttention-3, or the hub's kernels package, is installed here")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(MachineError, match=r"`kernels` package is installed. Run: pip install"):
        choose("flash3", CUDA, 128, torch.bfloat16)


def installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def test_a_requested_device_that_is_missing_is_an_error_with_a_hint() -> None:
    from model.runtime.preflight import device_of

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MachineError, match="expected a CUDA GPU"):
        device_of(load_config(None, {"system.device": "cuda"}))

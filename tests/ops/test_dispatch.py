from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forms import CPP_ONLY, CUDA, INTERPRETED, TRITON, assert_close, assert_same
from torch import Tensor, nn

from clipfast import InputError
from clipfast.ops import (
    ascend,
    cotangent,
    dispatch,
    drift_gate,
    implementations,
    perturb,
    triton_form,
    zero_shot_head,
)
from clipfast.ops.native import why_not
from clipfast.ops.registry import OPERATORS

ROOT = Path(__file__).parents[2]
FASTEST = "naive" if why_not() else "cpp"
STEP = {"weight_before": 0.1, "weight": 0.9, "eps": 0.1, "step_size": 0.05}
NO_TRITON = pytest.mark.skipif(CUDA or INTERPRETED, reason="the Triton form is available here")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.delenv("CLIPFAST_IMPL", raising=False)
    monkeypatch.setattr(dispatch, "_told", set())


def arguments(n: int = 4, dtype: torch.dtype = torch.float32) -> dict[str, tuple]:
    """Positional arguments of every operator's public function and, where it has more, its options."""
    generator = torch.Generator().manual_seed(n)
    image, embedding = (
        {"size": size, "generator": generator, "dtype": dtype} for size in ((n, 3, 4, 6), (n, 9))
    )
    x, f, f0 = torch.rand(**image), torch.randn(**embedding), torch.randn(**embedding)
    d, gradient, total, noise = (0.05 * torch.randn(**image) for _ in range(4))
    weights = torch.randn(9, 5, generator=generator, dtype=dtype)
    return {
        "perturb": (perturb, {"pixels": x, "noise": noise}, {"eps": 0.1, "patch": (2, 3)}),
        "drift_gate": (
            drift_gate,
            {"clean": f0, "noisy": f, "threshold": torch.tensor(1.4, dtype=dtype)},
            {},
        ),
        "cotangent": (cotangent, {"embedding": f, "clean": f0}, {}),
        "ascend": (
            ascend,
            {"x": x, "d": d, "gradient": gradient, "total": total, "scale": f[:, 0].abs()},
            {**STEP, "norm": "l2"},
        ),
        "zero_shot_head": (
            zero_shot_head,
            {"embedding": f, "class_weights": weights, "scale": torch.tensor(100.0, dtype=dtype)},
            {},
        ),
    }


CALLED = list(arguments())  # split_linear and packed_product have tests of their own


@pytest.fixture
def ran(monkeypatch):
    """The names of the forms that ran, in order."""
    names = []

    def watch(name, function):
        def run(*given):
            names.append(name)
            return function(*given)

        return run

    for operator in CALLED:
        declared = OPERATORS[operator]
        monkeypatch.setitem(vars(declared), "naive", watch("naive", declared.naive))
        packet = getattr(torch.ops.clipfast, operator)
        monkeypatch.setattr(torch.ops.clipfast, operator, watch("torch", packet))
    return names


@pytest.mark.parametrize("operator", CALLED)
@pytest.mark.parametrize(
    ("implementation", "variable", "expected"),
    [
        ("auto", None, "naive" if why_not() else "torch"),
        ("naive", None, "naive"),
        ("auto", "naive", "naive"),
        ("auto", "auto", "naive" if why_not() else "torch"),
        pytest.param("cpp", None, "torch", marks=CPP_ONLY),
        pytest.param("auto", "cpp", "torch", marks=CPP_ONLY),
        pytest.param("cpp", "naive", "torch", marks=CPP_ONLY),
        ("naive", "cpp", "naive"),
        ("naive", "no form at all", "naive"),
    ],
)
def test_which_form_runs(operator, implementation, variable, expected, ran, monkeypatch):
    if variable is not None:
        monkeypatch.setenv("CLIPFAST_IMPL", variable)
    run, tensors, options = arguments()[operator]
    run(**tensors, **options, implementation=implementation)
    assert ran == [expected]


@CPP_ONLY
@pytest.mark.parametrize("operator", CALLED)
def test_the_library_has_a_kernel_of_every_operator(operator):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"clipfast::{operator}", "CPU")


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA or not TRITON, reason="needs a GPU")
@pytest.mark.parametrize("operator", CALLED)
def test_triton_has_a_kernel_of_every_operator(operator):
    assert implementations().active["cuda"] == "triton"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"clipfast::{operator}", "CUDA")


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA or not TRITON, reason="needs a GPU")
@pytest.mark.parametrize("operator", CALLED)
def test_on_a_gpu_the_form_is_triton(operator, ran):
    run, tensors, options = arguments()[operator]
    tensors = {name: tensor.cuda() for name, tensor in tensors.items()}
    run(**tensors, **options)
    assert ran == ["torch"]
    with pytest.raises(InputError, match="implementation 'cpp' is not available on cuda: it runs on a CPU"):
        run(**tensors, **options, implementation="cpp")


@pytest.mark.parametrize("operator", CALLED)
def test_a_form_that_is_not_there_is_an_error(operator, monkeypatch):
    run, tensors, options = arguments()[operator]
    with pytest.raises(InputError, match=r"implementation must be one of .*'cpp'.*, got 'cuda'"):
        run(**tensors, **options, implementation="cuda")
    monkeypatch.setenv("CLIPFAST_IMPL", "fast")
    with pytest.raises(InputError, match=r"CLIPFAST_IMPL must be one of .*'naive'.*, got 'fast'"):
        run(**tensors, **options)
    with pytest.raises(InputError, match="CLIPFAST_IMPL must be one of"):
        implementations()


@NO_TRITON
@pytest.mark.parametrize("operator", CALLED)
def test_triton_without_a_gpu_says_why(operator, monkeypatch):
    run, tensors, options = arguments()[operator]
    reason = re.escape(triton_form.why_not("cpu"))
    with pytest.raises(InputError, match=f"implementation 'triton' is not available on cpu: {reason}"):
        run(**tensors, **options, implementation="triton")
    monkeypatch.setenv("CLIPFAST_IMPL", "triton")
    with pytest.raises(InputError, match=reason):
        run(**tensors, **options)
    with pytest.raises(InputError, match=reason):
        implementations()


def test_without_the_library_auto_is_naive(ran, monkeypatch, caplog):
    monkeypatch.setattr(dispatch.native, "why_not", lambda: "there was no compiler")
    run, tensors, options = arguments()["cotangent"]
    with caplog.at_level(logging.INFO, "clipfast"):
        run(**tensors, **options)
        run(**tensors, **options)
    assert ran == ["naive"] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "the naive operators run on cpu; not cpp: there was no compiler"
    ]
    assert caplog.records[0].levelno == logging.WARNING
    with pytest.raises(
        InputError, match="implementation 'cpp' is not available on cpu: there was no compiler"
    ):
        run(**tensors, **options, implementation="cpp")
    report = implementations()
    assert report.active["cpu"] == "naive"
    assert report.unavailable["cpp"] == "there was no compiler"


@CPP_ONLY
def test_the_choice_is_said_once(caplog):
    with caplog.at_level(logging.INFO, "clipfast"):
        for run, tensors, options in arguments().values():
            run(**tensors, **options)
    assert [record.getMessage() for record in caplog.records] == ["the cpp operators run on cpu"]
    assert caplog.records[0].levelno == logging.INFO


@pytest.mark.skipif(CUDA, reason="the report of a machine without a GPU")
def test_what_runs_here():
    report = implementations()
    assert report.active == {"cpu": FASTEST}
    reasons = {"triton": triton_form.why_not("cpu"), "cpp": why_not()}
    assert report.unavailable == {name: why for name, why in reasons.items() if why is not None}


@pytest.mark.parametrize("compiler", [False, True])
@pytest.mark.parametrize("triton", [False, True])
def test_what_runs_on_a_machine_with_a_gpu(compiler, triton, monkeypatch):
    cpp, gpu = (
        None if there else reason for there, reason in ((compiler, "no compiler"), (triton, "too old"))
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dispatch.native, "why_not", lambda: cpp)
    monkeypatch.setattr(dispatch.triton_form, "why_not", lambda device: gpu if device == "cuda" else "a CPU")
    report = implementations()
    assert report.active == {"cpu": "cpp" if compiler else "naive", "cuda": "triton" if triton else "naive"}
    reasons = {"cpp": cpp, "triton": gpu}
    assert report.unavailable == {name: why for name, why in reasons.items() if why is not None}
    monkeypatch.setenv("CLIPFAST_IMPL", "naive")
    assert implementations().active == {"cpu": "naive", "cuda": "naive"}
    for name, device, there in (("cpp", "cpu", compiler), ("triton", "cuda", triton)):
        monkeypatch.setenv("CLIPFAST_IMPL", name)
        if there:
            assert implementations().active == {device: name}
        else:
            with pytest.raises(InputError, match=f"{name!r} .by CLIPFAST_IMPL. is not available"):
                implementations()


@pytest.mark.parametrize("operator", CALLED)
def test_float64_is_naive(operator, ran):
    run, tensors, options = arguments(dtype=torch.float64)[operator]
    run(**tensors, **options)
    assert ran == ["naive"]
    with pytest.raises(InputError, match="'cpp' is not available on cpu: it computes in float32"):
        run(**tensors, **options, implementation="cpp")


def test_float64_noise_of_bytes_is_naive_too(ran):
    pixels, noise = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    x, d = perturb(pixels, noise, eps=0.1)
    assert ran == ["naive"]
    assert x.dtype == d.dtype == torch.float64


@pytest.mark.parametrize(
    ("operator", "leaf"),
    [
        (operator, leaf)
        for operator, (_, tensors, _) in arguments().items()
        for leaf in tensors
        if leaf != "threshold"
    ],
)
def test_where_a_gradient_is_asked_for_it_is_naive(operator, leaf, ran):
    run, tensors, options = arguments()[operator]
    tensors[leaf] = tensors[leaf].clone().requires_grad_()
    result = run(**tensors, **options)
    assert ran == ["naive"]
    total = sum(
        part.sum()
        for part in ([result] if isinstance(result, Tensor) else result)
        if part.is_floating_point()
    )
    total.backward()
    assert tensors[leaf].grad.isfinite().all()
    assert tensors[leaf].grad.any()
    with pytest.raises(InputError, match="'cpp' is not available on cpu: it has no gradient"):
        run(**tensors, **options, implementation="cpp")
    ran.clear()
    with torch.no_grad():
        run(**tensors, **options)
    assert ran == ["naive" if why_not() else "torch"]


def schema_arguments() -> list[tuple[str, tuple]]:
    g = arguments()
    x, noise = g["perturb"][1].values()
    d, gradient, total, scale = (g["ascend"][1][name] for name in ("d", "gradient", "total", "scale"))
    keys, u8 = (torch.arange(4) - 2, torch.arange(4)), (x * 255).to(torch.uint8)
    step = (0.1, 0.9, 0.1, 0.05)
    return [
        ("perturb", (x, noise, None, None, 0.1, 2, 3, False)),
        ("perturb", (x.half(), noise, None, None, 0.1, 0, 0, True)),
        ("perturb", (u8, None, *keys, 0.1, 0, 0, False)),
        ("perturb", (u8, None, *keys, 0.1, 2, 2, True)),
        ("drift_gate", tuple(g["drift_gate"][1].values())),
        (
            "drift_gate",
            (*(tensor.bfloat16() for tensor in g["cotangent"][1].values()), torch.tensor(0.2)),
        ),
        ("cotangent", tuple(g["cotangent"][1].values())),
        ("cotangent", tuple(tensor.half() for tensor in g["cotangent"][1].values())),
        ("ascend", (x, d, gradient, None, None, *step, False, False)),
        ("ascend", (x, d, gradient.bfloat16(), total, None, *step, False, True)),
        ("ascend", (x, d, gradient, total, scale, *step, True, False)),
        ("ascend", (x, d, gradient.half(), None, scale, *step, True, True)),
        ("zero_shot_head", tuple(g["zero_shot_head"][1].values())),
    ]


@pytest.mark.parametrize(("operator", "given"), schema_arguments())
def test_torch_sees_one_operator(operator, given):
    torch.library.opcheck(getattr(torch.ops.clipfast, operator).default, given)


class Pipeline(nn.Module):
    """Every operator in both norms, of a batch of any size."""

    def __init__(self, implementation: str) -> None:
        super().__init__()
        self.weights = arguments()["zero_shot_head"][1]["class_weights"]
        self.options = {"implementation": implementation}

    def forward(
        self, pixels: Tensor, seeds: Tensor, images: Tensor, f: Tensor, f0: Tensor
    ) -> dict[str, Tensor]:
        out = {}
        for norm, patch in (("linf", (2, 3)), ("l2", None)):
            x, d = perturb(
                pixels, seeds=seeds, images=images, eps=0.1, patch=patch, norm=norm, **self.options
            )
            cot, scale = cotangent(f, f0, **self.options)
            gradient = f0[:, 0].reshape(-1, *(1 for _ in x.shape[1:])) * (x - 0.4)
            step = {**STEP, **self.options, "norm": norm}
            d1, total = ascend(x, d, gradient, None, scale, **step)
            _, total = ascend(x, d1, gradient, total, scale, **step, last=True)
            out |= {f"x {norm}": x, f"d {norm}": d, f"d1 {norm}": d1, f"total {norm}": total}
        tau, countered = drift_gate(f0, f, torch.full((), 1.4), **self.options)
        logits = zero_shot_head(f, self.weights, torch.full((), 100.0), **self.options)
        return out | {"cotangent": cot, "scale": scale, "tau": tau, "countered": countered, "logits": logits}


def pipeline_input(n: int) -> tuple[Tensor, ...]:
    g = arguments(n)
    f, f0 = g["cotangent"][1].values()
    return (g["perturb"][1]["pixels"] * 255).to(torch.uint8), torch.arange(n) - 2, torch.arange(n), f, f0


def assert_pipelines_agree(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, value in ours.items():
        if name == "countered" or "linf" in name:
            assert_same(value, expected[name])
        else:
            assert_close(value, expected[name], rtol=2e-6, atol=1e-4 if name == "logits" else 2e-7)


@pytest.mark.parametrize(
    ("implementation", "backend"),
    [
        ("auto", "aot_eager"),
        pytest.param("auto", "inductor", marks=pytest.mark.slow),
        pytest.param("naive", "aot_eager", marks=pytest.mark.slow),
    ],
)
def test_compiled_as_one_graph(implementation, backend):
    module = Pipeline(implementation)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=backend)
    for n in (4, 7):
        assert_pipelines_agree(compiled(*pipeline_input(n)), module(*pipeline_input(n)))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("implementation", "namespaces"), [pytest.param("auto", {"clipfast"}, marks=CPP_ONLY), ("naive", set())]
)
def test_exported_for_any_batch(implementation, namespaces, strict):
    module = Pipeline(implementation)
    batch = torch.export.Dim("batch", min=2, max=1000)
    shapes = tuple({0: batch} for _ in pipeline_input(4))
    exported = torch.export.export(module, pipeline_input(4), dynamic_shapes=shapes, strict=strict)
    targets = [node.target for node in exported.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    assert {target.namespace for target in targets} - {"aten"} == namespaces
    ours = {target._opname for target in targets if target.namespace == "clipfast"}
    assert ours == (set(CALLED) if namespaces else set())
    for n in (2, 7):
        assert_pipelines_agree(exported.module()(*pipeline_input(n)), module(*pipeline_input(n)))


def test_an_exported_operator_is_naive_where_no_library_is():
    code = """
import torch
from clipfast.ops.registry import OPERATORS
x, f = torch.rand(2, 3, 4, 6), torch.randn(2, 5)
keys = torch.tensor([5, -5]), torch.tensor([0, 1])
step = (0.1, 0.9, 0.1, 0.05, False, False)
for name, given in (
    ("perturb", (x, None, *keys, 0.1, 2, 3, False)), ("ascend", (x, x - x, x - 0.5, None, None, *step)),
    ("cotangent", (f, f + 1)), ("drift_gate", (f, f + 1, torch.tensor(0.5))),
    ("zero_shot_head", (f, f.T.contiguous(), torch.tensor(9.0))),
):
    assert not torch._C._dispatch_has_kernel_for_dispatch_key(f"clipfast::{name}", "CPU")
    ours, expected = getattr(torch.ops.clipfast, name)(*given), OPERATORS[name].naive(*given)
    assert all(map(torch.equal, ours, expected)), name
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.skipif(
    CUDA or INTERPRETED or not TRITON, reason="runs Triton's interpreter where Triton is not run"
)
def test_triton_in_its_interpreter():
    # A process of its own: the interpreter is chosen as Triton's kernels are defined.
    files = [str(Path(__file__).with_name(name)) for name in ("test_operators.py", "test_operator_noise.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-k", "triton", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 50, done.stdout

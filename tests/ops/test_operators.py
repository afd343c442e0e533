from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from forms import (
    FORMS,
    FORMS_AND_FLOAT64,
    INTERPRETED,
    NAIVE,
    ON_CUDA,
    Form,
    assert_close,
    assert_same,
    by_oracle,
    call,
)
from torch import Tensor

from clipfast.inputs.philox import l2_noise, linf_noise
from clipfast.ops import ascend, cotangent, drift_gate, perturb, zero_shot_head
from clipfast.ops.native import why_not

EPS = 4 / 255
LINF = {"weight_before": 0.0159, "weight": 0.1173, "eps": EPS, "step_size": 1 / 255}
L2 = {"weight_before": 0.0159, "weight": 0.1173, "eps": 0.7, "step_size": 0.4}
U8, F16, BF16, F32 = torch.uint8, torch.float16, torch.bfloat16, torch.float32
SMALLEST = torch.finfo(F32).tiny


def picture(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random pixels, and many at the bounds."""
    x = torch.rand(shape, dtype=torch.float64)
    x.view(-1)[::5], x.view(-1)[1::5], x.view(-1)[2::15] = 0, 1, 1 - EPS / 2
    return (x * 255).round().to(dtype) if dtype == U8 else x.to(dtype)


def assert_in_budget(x: Tensor, d: Tensor, eps: float, norm: str) -> None:
    assert ((x + d >= 0) & (x + d <= 1)).all()
    size = d.double().flatten(1).norm(dim=1) if norm == "l2" else d.abs()
    assert (size <= eps * (1 + 1e-6)).all()


def tolerance(form: Form, float32: float) -> float:
    return float32 if form.exact == F32 else 1e-14


PERTURB = [
    ((0, 3, 5, 7), None, U8), ((0, 3, 30, 42), (5, 7), F32), ((1, 3, 5, 7), None, F32),
    ((3, 3, 5, 7), (5, 7), BF16), ((3, 3, 1, 1), None, F16), ((5, 3, 30, 42), None, U8),
    ((5, 3, 30, 42), (6, 14), U8), ((3, 3, 30, 42), (5, 7), F16), ((3, 3, 30, 42), (30, 42), F32),
    ((3, 3, 30, 42), None, BF16), ((37, 3, 4, 3), (2, 1), F32), ((37, 3, 2, 3), None, U8),
]  # fmt: skip
LARGE_PERTURB = [((5, 3, 224, 224), (32, 32), U8), ((5, 3, 224, 224), None, F32)]


def draw(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """Noise as `perturb` takes it, the caller's or its seeds, and the noise itself."""
    if kind == "caller's":  # some of it far out of bounds
        noise = torch.randn(shape, dtype=dtype) * torch.tensor([0.01, 1.0]).repeat(shape[-1])[: shape[-1]]
        return {"noise": noise}, noise
    seeds, images = torch.arange(shape[0]) // 2 - 2, torch.arange(shape[0])
    define = l2_noise if kind == "l2" else linf_noise
    noise = define(seeds.numpy().astype(np.uint64), images.numpy().astype(np.uint32), shape[1:], EPS)
    return {"seeds": seeds, "images": images}, torch.from_numpy(noise)


def check_perturb(form: Form, kind: str, shape: tuple[int, ...], patch, dtype: torch.dtype) -> None:
    pixels = picture(shape, form.of(dtype))
    given, noise = draw(kind, shape, form.exact)
    norm = "l2" if kind == "l2" else "linf"
    options = given | {"eps": EPS, "patch": patch, "norm": norm}
    x, d = call(perturb, form, pixels, **options)
    expected_x, expected_d = by_oracle(oracle.perturb, pixels, noise, patch)
    near = tolerance(form, 1e-7) if "noise" in given and dtype != U8 else 1e-7
    assert_same(x.float(), expected_x.float())
    assert_close(d, expected_d, atol=1e-6 * EPS if norm == "l2" and form.exact == F32 else near)
    assert_in_budget(x, d, EPS if kind != "caller's" else math.inf, norm)
    assert x.dtype == d.dtype == (form.exact if "noise" in given else F32)
    if form.exact == F32:
        naive_x, naive_d = call(perturb, NAIVE, pixels, **options)
        assert_same(x, naive_x)
        if norm == "linf":
            assert_same(d, naive_d)


@pytest.mark.parametrize("form", FORMS_AND_FLOAT64)
@pytest.mark.parametrize("kind", ["caller's", "linf", "l2"])
@pytest.mark.parametrize(("shape", "patch", "dtype"), PERTURB)
def test_perturb(form, kind, shape, patch, dtype):
    check_perturb(form, kind, shape, patch, dtype)


BAD_PIXELS = [(F32, torch.nan), (F32, -torch.inf), (BF16, torch.inf), (F16, -0.1), (F32, 1.1),
              (F32, 1 + 2**-23), (F32, -1e-40), (BF16, torch.nan), (F16, 1.001)]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("patch", [None, (5, 7)])
@pytest.mark.parametrize(("dtype", "value"), BAD_PIXELS)
def test_a_bad_pixel_is_nan_at_its_place(form, patch, dtype, value):
    pixels, where = picture((3, 3, 10, 14), dtype), torch.zeros(3, 3, 10, 14, dtype=torch.bool)
    bad, where[1, 2, 6, 9] = pixels.clone(), True
    bad[where] = value
    expected_hit = by_oracle(oracle.perturb, where.float(), where.double(), patch)[0] == 1
    for kind in ("caller's", "linf", "l2"):
        norm = {"norm": "l2" if kind == "l2" else "linf"}
        options = draw(kind, pixels.shape, F32)[0] | {"eps": EPS, "patch": patch} | norm
        clean = call(perturb, form, pixels, **options)
        for result, untouched in zip(call(perturb, form, bad, **options), clean, strict=True):
            assert torch.equal(result.isnan(), expected_hit)
            assert_same(result[~expected_hit], untouched[~expected_hit])


@pytest.mark.parametrize("form", FORMS)
def test_noise_that_is_not_finite_is_seen_or_bounded(form):
    pixels, noise = torch.full((2, 3, 4, 5), 0.25), torch.zeros(2, 3, 4, 5)
    noise[1, 2, 3, 1:4] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    _, d = call(perturb, form, pixels, noise, eps=EPS)
    expected = torch.zeros(2, 3, 4, 5)
    expected[1, 2, 3, 1:4] = torch.tensor([torch.nan, 0.75, -0.25])
    assert_same(d, expected)


EMBEDDINGS = [
    (0, 8, F32), (1, 1, F32), (1, 512, BF16), (3, 7, F32), (3, 640, F16), (5, 512, F32), (17, 768, BF16),
    (123, 33, F32), (123, 5, F16),
]  # fmt: skip
LARGE_EMBEDDINGS = [(400, 1024, F32), (65, 4099, BF16)]


def embeddings(form: Form, n: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """f(x), and f(x + d) at drifts from 0.02 to 0.5; the first image is not moved."""
    clean, moved = torch.randn(2, n, size, dtype=torch.float64)
    moved *= torch.linspace(0.02, 0.5, n, dtype=torch.float64)[:, None]
    moved[:1] = 0
    dtype = dtype if form.exact == F32 else form.exact
    return (3 * clean).to(dtype), (3 * (clean + moved)).to(dtype)


def check_drift_gate(form: Form, n: int, size: int, dtype: torch.dtype) -> None:
    clean, noisy = embeddings(form, n, size, dtype)
    threshold = torch.tensor(0.2, dtype=form.exact)
    tau, countered = call(drift_gate, form, clean, noisy, threshold)
    expected = by_oracle(oracle.drift_gate, clean, noisy, 0.2)
    assert_close(tau, expected[0], rtol=tolerance(form, 2e-6), atol=0)
    assert torch.equal(countered, expected[1])
    assert tau.dtype == form.exact
    assert n < 3 or 0 < countered.sum() < n


@pytest.mark.parametrize("form", FORMS_AND_FLOAT64)
@pytest.mark.parametrize(("n", "size", "dtype"), EMBEDDINGS)
def test_drift_gate(form, n, size, dtype):
    check_drift_gate(form, n, size, dtype)


@pytest.mark.parametrize("form", FORMS_AND_FLOAT64)
@pytest.mark.parametrize("float32_threshold", [False, True])
def test_a_drift_of_exactly_the_threshold_is_not_countered(form, float32_threshold):
    clean, noisy = torch.zeros(2, 3, 9, dtype=form.exact)
    clean[:, 4] = 4
    noisy[:, 4], noisy[:, 5] = 4, torch.tensor([1, 1 - 2**-20, 1 + 2**-20])
    threshold = torch.tensor(0.25, dtype=F32 if float32_threshold else form.exact)
    tau, countered = call(drift_gate, form, clean, noisy, threshold)
    assert tau[0] == 0.25
    assert countered.tolist() == [False, True, False]
    assert call(drift_gate, form, clean, noisy, threshold * (1 + 2**-22))[1].tolist() == [True, True, False]


@pytest.mark.parametrize("form", FORMS_AND_FLOAT64)
def test_each_image_may_have_its_own_threshold(form):
    clean, noisy = embeddings(form, 5, 40, F32)
    tau, _ = call(drift_gate, form, clean, noisy, torch.tensor(0.0, dtype=form.exact))
    thresholds = tau * torch.tensor([2, 0.5, 2, 0.5, 2], dtype=form.exact)
    thresholds[0] = 1  # its drift is zero
    _, countered = call(drift_gate, form, clean, noisy, thresholds)
    assert countered.tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_a_drift_that_is_not_finite_is_not_countered(form, dtype):
    clean, noisy = torch.randn(2, 8, 40).to(dtype)
    expected = call(drift_gate, form, clean, noisy, torch.tensor(torch.inf))
    clean[1, 3], noisy[2, 39], clean[3], clean[4, 0], noisy[5, 0] = (
        torch.nan,
        torch.nan,
        0,
        torch.inf,
        torch.inf,
    )
    clean[6], noisy[6] = 0, 0
    tau, countered = call(drift_gate, form, clean, noisy, torch.tensor(torch.inf))
    assert tau[[1, 2, 4, 6]].isnan().all()
    assert tau[[3, 5]].isposinf().all()
    assert not countered[1:7].any()
    assert_same(tau[[0, 7]], expected[0][[0, 7]])
    assert countered[[0, 7]].all()


def check_cotangent(form: Form, n: int, size: int, dtype: torch.dtype) -> None:
    clean, embedding = embeddings(form, n, size, dtype)
    unit, scale = call(cotangent, form, embedding, clean)
    expected = by_oracle(oracle.cotangent, embedding, clean)
    near = tolerance(form, 2e-6)
    assert_close(unit, expected[0], rtol=near, atol=1e-30)
    assert_close(scale, expected[1], rtol=near, atol=1e-30)
    assert unit.dtype == scale.dtype == form.exact
    assert (scale > 0).all()  # the first row is f0 itself
    assert_close(unit * scale[:, None], 2 * (embedding.double() - clean.double()), rtol=2 * near, atol=0)


@pytest.mark.parametrize("form", FORMS_AND_FLOAT64)
@pytest.mark.parametrize(("n", "size", "dtype"), EMBEDDINGS)
def test_cotangent(form, n, size, dtype):
    check_cotangent(form, n, size, dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [F32, F16])
def test_nan_in_an_embedding_is_its_rows_cotangent(form, dtype):
    clean, embedding = torch.randn(2, 5, 40).to(dtype)
    expected = call(cotangent, form, embedding, clean)
    clean[1, 3], embedding[3, 39] = torch.nan, torch.nan
    for result, untouched in zip(call(cotangent, form, embedding, clean), expected, strict=True):
        assert result[[1, 3]].isnan().all()
        assert_same(result[[0, 2, 4]], untouched[[0, 2, 4]])


@pytest.mark.parametrize("form", FORMS_AND_FLOAT64)
def test_a_step_from_where_f_is_f0_goes_nowhere(form):
    f0, x = torch.randn(2, 12, dtype=form.exact), torch.full((2, 3, 2, 2), 0.5, dtype=form.exact)
    unit, scale = call(cotangent, form, f0, f0)
    assert not unit.any()
    assert (scale > 0).all()
    assert (scale < 1e-30).all()
    gradient, d = torch.zeros_like(x), torch.full_like(x, 0.01)
    for options in (L2 | {"scale": scale, "norm": "l2"}, LINF):
        assert_same(call(ascend, form, x, d, gradient, **options)[0], d)


ASCEND = [
    # shape, the gradient's dtype, whether a sum is given, whether it is the last step
    ((0, 3, 5, 7), F32, False, False), ((0, 36, 105), BF16, True, True), ((1, 3, 5, 7), BF16, True, False),
    ((3, 3, 5, 7), F32, False, True), ((5, 3, 30, 42), F16, True, True), ((5, 36, 105), F32, True, False),
    ((3, 15, 252), BF16, False, False), ((37, 3, 2, 3), F32, True, False), ((37, 2, 9), F16, False, False),
    ((3, 1), F32, False, False),
]  # fmt: skip
LARGE_ASCEND = [((5, 3, 224, 224), F32, True, False), ((5, 49, 3072), BF16, False, False)]


def ascend_arguments(form: Form, norm: str, shape: tuple[int, ...], dtype: torch.dtype, given: bool):
    n, per_image = shape[0], (-1, *(1 for _ in shape[1:]))
    x = picture(shape, form.exact)
    d, g, total = torch.randn(3, *shape, dtype=torch.float64)
    scale = None
    if norm == "linf":
        d *= 0.7 * EPS
        g.view(-1)[::7], g.view(-1)[3::7], g.view(-1)[4::7] = 0, 1e-40 if dtype == F32 else 1e-7, -torch.inf
    else:
        lengths = torch.linspace(0.05, 1.5 * L2["eps"], n, dtype=torch.float64).reshape(per_image)
        d, g = (v / v.flatten(1).norm(dim=1).reshape(per_image) for v in (d, g))
        d *= lengths
        # Every third image's gradient is as small as the 1e-10 beside it, and every third is zero.
        kind = torch.arange(n) % 3
        scale = torch.tensor([0.3, 1e-8, 2 * SMALLEST], dtype=form.exact)[kind]
        g *= torch.tensor([1.0, 0.01, 0.0])[kind].reshape(per_image)
    total = (0.01 * total).to(form.exact) if given else None
    return x, d.to(form.exact), g.to(form.of(dtype)), total, scale


def check_ascend(form: Form, norm: str, shape, dtype: torch.dtype, given: bool, last: bool) -> None:
    arguments = ascend_arguments(form, norm, shape, dtype, given)
    options = L2 if norm == "l2" else LINF
    d, total = call(ascend, form, *arguments, norm=norm, last=last, **options)
    expected = by_oracle(oracle.ascend, *arguments, **options)
    near = tolerance(form, 1e-6)
    assert_close(total, expected[1], rtol=near, atol=near * options["eps"])
    assert total.dtype == d.dtype == form.exact
    if last:
        assert d.shape == (0,)
    else:
        assert_close(d, expected[0], rtol=near, atol=near * options["eps"])
        assert_in_budget(arguments[0], d, options["eps"], norm)
    if norm == "linf" and form.exact == F32:
        for ours, naive in zip((d, total), call(ascend, NAIVE, *arguments, last=last, **LINF), strict=True):
            assert_same(ours, naive)


@pytest.mark.parametrize("form", FORMS_AND_FLOAT64)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("shape", "dtype", "given", "last"), ASCEND)
def test_ascend(form, norm, shape, dtype, given, last):
    check_ascend(form, norm, shape, dtype, given, last)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("where", ["x", "d", "gradient", "total"])
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_nan_is_nan_at_its_place_of_a_step(form, where, given, dtype):
    names = ("x", "d", "gradient", "total", "scale")
    arguments = dict(zip(names, ascend_arguments(form, "linf", (3, 4, 36), dtype, given), strict=True))
    if arguments[where] is None:
        return
    clean = call(ascend, form, **arguments, **LINF)
    hit = torch.zeros(3, 4, 36, dtype=torch.bool)
    hit[1, 3, 20] = True
    arguments[where] = arguments[where].masked_fill(hit, torch.nan)
    d, total = call(ascend, form, **arguments, **LINF)
    assert torch.equal(total.isnan(), hit)
    assert torch.equal(d.isnan(), hit if where != "total" else torch.zeros_like(hit))
    assert_same(d[~hit], clean[0][~hit])
    assert_same(total[~hit], clean[1][~hit])
    assert_same(call(ascend, form, **arguments, **LINF, last=True)[1], total)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("where", "value"),
    [("x", torch.nan), ("d", torch.nan), ("d", torch.inf), ("gradient", torch.nan), ("gradient", -torch.inf),
     ("scale", torch.nan)],
)  # fmt: skip
def test_what_is_not_finite_stays_in_its_image_of_a_step_in_l2(form, where, value):
    names = ("x", "d", "gradient", "total", "scale")
    arguments = dict(zip(names, ascend_arguments(form, "l2", (6, 3, 5, 7), F32, True), strict=True))
    clean = call(ascend, form, **arguments, **L2, norm="l2")
    arguments[where] = arguments[where].clone()
    arguments[where][(3,) if where == "scale" else (3, 1, 2, 3)] = value
    others = torch.arange(6) != 3
    for result, untouched in zip(call(ascend, form, **arguments, **L2, norm="l2"), clean, strict=True):
        assert result[3].isnan().any()
        assert result[3].isnan().all() or where == "x" or math.isinf(value)
        assert_same(result[others], untouched[others])


@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_too_large_to_square_does_not_switch_a_step_in_l2_off(form):
    x, d, gradient, _, _ = ascend_arguments(form, "l2", (2, 3, 5, 7), F32, False)
    moved = call(ascend, form, x, d, gradient * 1e30, scale=torch.ones(2), norm="l2", **L2)[0]
    expected = by_oracle(oracle.ascend, x, d, gradient * 1e30, None, torch.ones(2), **L2)[0]
    for i in range(2):
        assert moved[i].isnan().any() or (moved[i] - expected[i]).abs().max() < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_a_step_of_nan_pixels_is_nan_at_every_layout_of_perturb(form):
    pixels, gradient = picture((2, 3, 10, 14), F32), torch.randn(2, 4, 105)
    pixels[1, 0, 7, 8] = 1.5
    x, d = call(perturb, form, pixels, torch.zeros_like(pixels), eps=EPS, patch=(5, 7))
    _, total = call(ascend, form, x, d, gradient, **LINF)
    assert total.isnan().nonzero().tolist() == [[1, 3, 2 * 7 + 1]]


HEADS = [
    (0, 8, 5), (1, 1, 1), (1, 512, 10), (3, 7, 3), (5, 640, 101), (123, 33, 2), (17, 768, 1000),
]  # fmt: skip
LARGE_HEADS = [(400, 1024, 397)]


def check_zero_shot_head(form: Form, n: int, size: int, classes: int) -> None:
    embedding = torch.randn(n, size, dtype=form.exact) * torch.logspace(-3, 3, n, dtype=form.exact)[:, None]
    embedding[1:2], embedding[2:3] = 0, 1e-14
    weights = torch.nn.functional.normalize(torch.randn(size, classes, dtype=form.exact), dim=0)
    logits = call(zero_shot_head, form, embedding, weights, torch.tensor(100.0, dtype=form.exact))
    expected = by_oracle(oracle.zero_shot_head, embedding, weights, 100.0)
    assert_close(logits, expected, rtol=0, atol=1e-4 if form.exact == F32 else 1e-11)
    assert logits.dtype == form.exact


@pytest.mark.parametrize("form", FORMS_AND_FLOAT64)
@pytest.mark.parametrize(("n", "size", "classes"), HEADS)
def test_zero_shot_head(form, n, size, classes):
    check_zero_shot_head(form, n, size, classes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_embedding_that_is_not_finite_has_no_logits(form, value):
    embedding, weights, scale = torch.randn(5, 33), torch.randn(33, 7), torch.tensor(100.0)
    clean = call(zero_shot_head, form, embedding, weights, scale)
    embedding[3, 32] = value
    logits = call(zero_shot_head, form, embedding, weights, scale)
    assert logits[3].isnan().all()
    assert_same(logits[[0, 1, 2, 4]], clean[[0, 1, 2, 4]])


LARGE = [
    *((check_perturb, kind, *case) for kind in ("caller's", "linf", "l2") for case in LARGE_PERTURB),
    *((check_ascend, norm, *case) for norm in ("linf", "l2") for case in LARGE_ASCEND),
    *((check_drift_gate, *case) for case in LARGE_EMBEDDINGS),
    *((check_cotangent, *case) for case in LARGE_EMBEDDINGS),
    *((check_zero_shot_head, *case) for case in LARGE_HEADS),
]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter is slow")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("check", "case"), [(check, case) for check, *case in LARGE])
def test_several_threads(form, check, case):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        check(form, *case)
    finally:
        torch.set_num_threads(before)


def skip_without_gpu_memory(gigabytes: int) -> None:
    if torch.cuda.mem_get_info()[0] < gigabytes << 30:
        pytest.skip(f"needs {gigabytes} GB of a GPU's memory")


@pytest.mark.gpu
@ON_CUDA
def test_addresses_of_steps_beyond_31_bits():
    skip_without_gpu_memory(80)
    shape, part = (3, 2**30), 2**28
    x, d = torch.rand(shape, device="cuda"), torch.empty(shape, device="cuda").uniform_(-EPS, EPS)
    gradient = torch.empty(shape, device="cuda", dtype=BF16).normal_()
    results = ascend(x, d, gradient, implementation="triton", **LINF)
    parts = (tensor.view(-1, 1, part) for tensor in (x, d, gradient, *results))
    for *arguments, d_part, total_part in zip(*parts, strict=True):
        expected = ascend(*arguments, implementation="naive", **LINF)
        assert torch.equal(d_part, expected[0])
        assert torch.equal(total_part, expected[1])


@pytest.mark.gpu
@ON_CUDA
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_addresses_of_perturbed_images_beyond_31_bits(norm):
    skip_without_gpu_memory(40)
    n = 2**31 // (3 * 224 * 224) + 50
    pixels = torch.randint(256, (n, 3, 224, 224), device="cuda", dtype=U8)
    seeds, images = torch.arange(n, device="cuda") - 5, torch.arange(n, device="cuda")
    options = {"eps": EPS, "patch": (32, 32), "norm": norm, "implementation": "triton"}
    x, d = perturb(pixels, seeds=seeds, images=images, **options)
    for some in (slice(0, 50), slice(n // 2, n // 2 + 50), slice(n - 100, n)):
        alone = perturb(pixels[some], seeds=seeds[some], images=images[some], **options)
        assert torch.equal(x[some], alone[0])
        torch.testing.assert_close(d[some], alone[1], rtol=0, atol=0 if norm == "linf" else 1e-6 * EPS)


WIDE = (2**31 // 2**26 + 2, 2**26)


def untouched(dtype: torch.dtype, numpy_dtype: str) -> torch.Tensor:
    # Zeros of numpy's that are not written to take no memory.
    return torch.from_numpy(np.zeros(WIDE, numpy_dtype)).view(dtype)


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_addresses_of_the_cpu_beyond_31_bits():
    three, two = (untouched(BF16, "int16") for _ in range(2))
    three[-1, -3:], two[-1, -2:] = 1.0, 1.0
    tau, countered = drift_gate(two, three, torch.tensor(1.0), implementation="cpp")
    assert tau[-1] == torch.tensor(0.5).sqrt()
    assert countered.tolist() == [False] * (WIDE[0] - 1) + [True]


@pytest.mark.slow
@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_addresses_of_steps_of_the_cpu_beyond_31_bits():
    if free_memory() < 12 * 2**30:
        pytest.skip("the sum of a step takes 9 GB")
    gradient, x = untouched(BF16, "int16"), untouched(F32, "float32")
    gradient[-1, -3:], x[-1, -3:] = 1.0, 0.5
    options = {**LINF, "eps": 1.0, "last": True}
    total = ascend(x, x, gradient, implementation="cpp", **options)[1]
    expected = ascend(x[-1:, -4:], x[-1:, -4:], gradient[-1:, -4:], implementation="naive", **options)[1]
    assert torch.equal(total[-1:, -4:], expected)
    assert total.count_nonzero() == 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flushed", [False, True])
def test_every_float16_is_read_as_it_is(form, flushed):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(F16)
    every = every[every.isfinite()]
    x, d = torch.full((1, len(every)), 0.5), torch.zeros(1, len(every))
    pixels = torch.arange(3 * 64 * 80, dtype=torch.int16).view(F16).view(1, 3, 64, 80)  # all below 1
    wanted, signs = pixels.float(), np.sign(every.numpy()).astype(np.float32)
    torch.set_flush_denormal(flushed)
    try:
        stepped = call(ascend, form, x, d, every[None], **LINF)[0]
        taken = call(perturb, form, pixels, torch.zeros(pixels.shape), eps=EPS)[0]
    finally:
        torch.set_flush_denormal(False)
    assert np.array_equal(stepped[0].numpy(), signs * np.float32(LINF["step_size"]))
    assert torch.equal(taken, wanted)


def free_memory() -> int:
    """Bytes, of Linux alone."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))

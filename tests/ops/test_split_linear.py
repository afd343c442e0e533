from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipfast.encoders.linear import SplitProduct, product_forms
from clipfast.ops.native import why_not
from clipfast.ops.split_linear import split_linear, to_blocks

CPUINFO = Path("/proc/cpuinfo")
pytestmark = pytest.mark.skipif(
    why_not() is not None or not CPUINFO.exists() or "amx_bf16" not in CPUINFO.read_text(),
    reason=why_not() or "this CPU has no bfloat16 tiles",
)


def draw(rows: int, columns: int, out: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, weight = (
        torch.randn(rows, columns, generator=generator),
        torch.randn(out, columns, generator=generator),
    )
    return x, weight, torch.randn(out, generator=generator)


def run(x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Tensor:
    blocks = to_blocks(weight.t() if transposed else weight)
    return split_linear(x, blocks, bias, len(weight), transposed=transposed)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns", "out"),
    [
        (1, 1, 1), (2, 3, 5), (5, 31, 33), (16, 32, 32), (17, 33, 31), (33, 64, 96), (48, 65, 47),
        (100, 768, 160), (7, 513, 40), (50, 1025, 70), (123, 512, 64), (225, 40, 70), (450, 96, 33),
    ],
)  # fmt: skip
def test_it_is_as_near_as_float32_products(rows, columns, out, transposed):
    x, weight, bias = draw(rows, columns, out)
    expected = (x.double().numpy() @ weight.double().numpy().T) + bias.double().numpy()
    size = x.double().abs() @ weight.double().abs().T
    for with_bias in (True, False):
        result = run(x, weight, bias if with_bias else None, transposed=transposed)
        error = (result.double() - (torch.from_numpy(expected) - (0 if with_bias else bias.double()))).abs()
        assert (error <= 2**-22 * size + 2**-23).all(), (error / size).max()


@pytest.mark.parametrize("column", [0, 16])
def test_a_single_product_is_as_near_as_six_sums_allow(column):
    x, weight, _ = draw(2000, 17, 640)
    x[:, torch.arange(17) != column] = 0
    expected = x.double() @ weight.double().T
    error = (run(x, weight, None, transposed=False).double() - expected).abs() / expected.abs()
    assert error.max() <= 2.6 * 2**-24


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_small_and_large_numbers(scale, transposed):
    x, weight, _ = draw(20, 64, 40)
    expected = x.double() @ weight.double().T
    result = run(x * scale, weight, None, transposed=transposed).double() / scale
    assert (result - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_not_finite_stays_in_its_row_and_column(transposed):
    x, weight, bias = draw(40, 70, 50)
    clean = run(x, weight, bias, transposed=transposed)
    all_ones = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # a NaN, which a carry ends
    for value in (torch.nan, torch.inf, all_ones):
        x_bad, w_bad = x.clone(), weight.clone()
        x_bad[17] = value
        w_bad[33, 2] = value
        result = run(x_bad, w_bad, bias, transposed=transposed)
        hit = torch.zeros_like(clean, dtype=torch.bool)
        hit[17], hit[:, 33] = True, True
        assert not result[hit].isfinite().any()
        assert torch.equal(result[~hit], clean[~hit])


def test_float32_products_are_made_by_it():
    assert product_forms(torch.float32)[0] is SplitProduct


def test_other_shapes_of_x():
    x, weight, bias = draw(60, 40, 48)
    expected = run(x, weight, bias, transposed=False)
    assert torch.equal(run(x.view(3, 20, 40), weight, bias, transposed=False), expected.view(3, 20, 48))
    assert torch.equal(run(x.t().contiguous().t(), weight, bias, transposed=False), expected)
    assert torch.equal(run(x[::2], weight, bias, transposed=False), expected[::2])
    assert torch.equal(run(x[0], weight, bias, transposed=False), expected[0])
    assert run(x[:0], weight, bias, transposed=False).shape == (0, 48)


@pytest.mark.parametrize("transposed", [False, True])
def test_threads_do_not_change_the_answer(transposed):
    x, weight, bias = draw(130, 600, 320)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(x, weight, bias, transposed=transposed))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_concurrent_calls_of_other_sizes_and_bfloat16_products_between():
    cases = [draw(rows, columns, 64, seed=rows) for rows, columns in ((5, 40), (90, 700), (260, 96))]
    expected = [run(*case, transposed=False) for case in cases]
    wrong = []

    def work(i: int) -> None:
        for _ in range(50):
            x, weight, _ = cases[i]
            torch.nn.functional.linear(x.bfloat16(), weight.bfloat16())
            if not torch.equal(run(*cases[i], transposed=False), expected[i]):
                wrong.append(i)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert not wrong


def test_torch_sees_one_operator():
    x, weight, bias = draw(20, 40, 48)
    blocks = to_blocks(weight)
    for arguments in ((x, blocks, bias, 48, False), (x.view(4, 5, 40), blocks, None, 48, False)):
        torch.library.opcheck(torch.ops.clipfast.split_linear.default, arguments)

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return split_linear(x, blocks, bias, 48, transposed=False).relu()

    expected = run(x, weight, bias, transposed=False).relu()
    assert torch.equal(torch.compile(Layer(), fullgraph=True)(x), expected)
    batch = {"x": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(Layer(), (x,), dynamic_shapes=batch)
    assert torch.equal(exported.module()(x[:7]), expected[:7])


def test_bad_input():
    x, weight, bias = draw(4, 40, 48)
    blocks = to_blocks(weight)
    for arguments, message in (
        ((x.double(), blocks, bias, 48), "x as a contiguous Float tensor"),
        ((x[:, :20], blocks, bias, 48), "a weight of 20 columns and 48 rows, got 2 x 2 blocks"),
        ((x, blocks, bias, 70), "a weight of 40 columns and 70 rows, got 2 x 2 blocks"),
        ((x, blocks, bias[:5], 48), "the bias as a contiguous Float tensor .48."),
        ((x, blocks, bias.double(), 48), "the bias as a contiguous Float tensor"),
        ((x, blocks.bfloat16(), bias, 48), "the blocks as a contiguous Float tensor"),
        ((x, blocks.transpose(2, 3), bias, 48), "the blocks as a contiguous Float tensor"),
        ((x, weight, bias, 48), "a weight in blocks of 32 x 32"),
        ((x[:, :0], blocks, bias, 48), "a weight of 0 columns"),
    ):
        with pytest.raises(RuntimeError, match=message):
            split_linear(*arguments, transposed=False)

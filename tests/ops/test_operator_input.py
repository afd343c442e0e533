from __future__ import annotations

import pytest
import torch
from forms import CPP_ONLY
from torch import Tensor

from clipfast import InputError
from clipfast.ops import ascend, cotangent, drift_gate, perturb, zero_shot_head

U8, F16, BF16, F32, F64 = torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64
I32, I64 = torch.int32, torch.int64


def zeros(*shape: int, dtype: torch.dtype = F32, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


F64, I64, I32 = torch.float64, torch.int64, torch.int32
PIXELS, X, F = zeros(2, 3, 4, 6), zeros(2, 3, 8), zeros(2, 5)
KEYS = {"seeds": zeros(2, dtype=I64), "images": zeros(2, dtype=I64)}
# A call that is right, and what is wrong with it once an argument is another.
DOOR = [
    (perturb, {"pixels": PIXELS, "noise": PIXELS, "eps": 0.1, "patch": (2, 3)}, [
        ({"pixels": PIXELS.numpy()}, "expected pixels as a tensor, got ndarray"),
        ({"pixels": zeros(2, 3, 4, 6, dtype=I32)}, "expected pixels of uint8 or .*float64, got torch.int32"),
        ({"pixels": zeros(3, 4, 6)}, r"perturb: expected pixels \[B, 3, H, W\], got \[3, 4, 6\]"),
        ({"pixels": zeros(2, 4, 4, 6)}, r"perturb: expected pixels \[B, 3, H, W\], got \[2, 4, 4, 6\]"),
        ({"pixels": zeros(2, 3, 6, 4).mT}, "expected contiguous pixels, got strides"),
        ({"patch": (3, 3)}, r"perturb: expected patches that divide 4 x 6 pixels, got \(3, 3\)"),
        ({"patch": (2, 4)}, "perturb: expected patches that divide 4 x 6 pixels"),
        ({"patch": (0, 0)}, "perturb: expected patches that divide 4 x 6 pixels"),
        ({"patch": (-2, -3)}, "perturb: expected patches that divide 4 x 6 pixels"),
        ({"patch": (2,)}, "perturb: expected patches"),
        ({"patch": 2}, "perturb: expected patches"),
        ({"patch": (2.0, 2.0)}, "perturb: expected patches"),
        ({"noise": [0.0]}, "expected noise as a tensor, got list"),
        ({"noise": zeros(2, 3, 4, 6, dtype=F16)}, "expected noise of float32 or float64, got torch.float16"),
        ({"noise": zeros(2, 3, 4, 5)}, r"expected noise \[2, 3, 4, 6\], got \[2, 3, 4, 5\]"),
        ({"noise": zeros(2, 3, 4, 6, device="meta")}, "expected noise on cpu, got meta"),
        ({"noise": zeros(2, 3, 6, 4).mT}, "expected contiguous noise, got strides"),
        ({"pixels": PIXELS.double()}, "expected noise of float64, got torch.float32"),
        (KEYS, "perturb: expected noise, or seeds and images, got both"),
        ({"images": KEYS["images"]}, "perturb: expected noise, or seeds and images, got both"),
        ({"noise": None}, "perturb: expected noise, or seeds and images, got neither"),
        ({"norm": "l3"}, "perturb: expected norm 'linf' or 'l2', got 'l3'"),
    ]),
    (perturb, {"pixels": PIXELS, **KEYS, "eps": 0.1}, [
        ({"images": None}, "perturb: expected noise, or seeds and images, got neither"),
        ({"seeds": zeros(2, dtype=I32)}, "expected seeds of int64, got torch.int32"),
        ({"images": zeros(2)}, "expected images of int64, got torch.float32"),
        ({"seeds": zeros(1, dtype=I64)}, r"expected seeds \[2\], got \[1\]"),
        ({"images": zeros(2, 1, dtype=I64)}, r"expected images \[2\], got \[2, 1\]"),
        ({"seeds": zeros(4, dtype=I64)[::2]}, "expected contiguous seeds"),
    ]),
    (drift_gate, {"clean": F, "noisy": F, "threshold": zeros()}, [
        ({"clean": zeros(2, 5, dtype=I64)}, "expected clean of float16 or .*float64, got torch.int64"),
        ({"clean": zeros(5)}, r"expected clean \[B, D\], got \[5\]"),
        ({"noisy": zeros(2, 4)}, r"expected noisy \[2, 5\], got \[2, 4\]"),
        ({"noisy": zeros(2, 5, dtype=BF16)}, "expected noisy of float32, got torch.bfloat16"),
        ({"noisy": zeros(5, 2).mT}, "expected contiguous noisy"),
        ({"threshold": zeros(3)}, r"expected threshold \[2\], got \[3\]"),
        ({"threshold": zeros(2, 1)}, r"expected threshold \[2\], got \[2, 1\]"),
        ({"threshold": zeros(dtype=F16)}, "expected threshold of float32, got torch.float16"),
        ({"threshold": 0.2}, "expected threshold as a tensor, got float"),
        ({"threshold": zeros(device="meta")}, "expected threshold on cpu, got meta"),
    ]),
    (cotangent, {"embedding": F, "clean": F}, [
        ({"clean": zeros(2, 5, dtype=U8)}, "expected clean of float16 or .*float64, got torch.uint8"),
        ({"clean": zeros(2, 1, 5)}, r"expected clean \[B, D\], got \[2, 1, 5\]"),
        ({"embedding": zeros(1, 5)}, r"expected embedding \[2, 5\], got \[1, 5\]"),
        ({"embedding": zeros(2, 5, dtype=F16)}, "expected embedding of float32, got torch.float16"),
        ({"embedding": zeros(2, 10)[:, ::2]}, "expected contiguous embedding"),
    ]),
    (ascend, {"x": X, "d": X, "gradient": X, "total": X, "scale": zeros(2), "norm": "l2",
              "weight_before": 0.1, "weight": 0.1, "eps": 0.1, "step_size": 0.1}, [
        ({"x": zeros(2, 3, 8, dtype=BF16)}, "expected x of float32 or float64, got torch.bfloat16"),
        ({"x": zeros(8)}, r"ascend: expected x \[B, ...\], got \[8\]"),
        ({"x": zeros(2, 8, 3).mT}, "expected contiguous x"),
        ({"d": zeros(2, 24)}, r"expected d \[2, 3, 8\], got \[2, 24\]"),
        ({"d": zeros(2, 3, 8, dtype=F64)}, "expected d of float32, got torch.float64"),
        ({"gradient": zeros(1, 3, 8)}, r"expected gradient \[2, 3, 8\], got \[1, 3, 8\]"),
        ({"gradient": zeros(2, 3, 8, dtype=F64)},
         "expected gradient of float32 or float16 or bfloat16, got torch.float64"),
        ({"gradient": zeros(2, 8, 3).mT}, "expected contiguous gradient"),
        ({"total": zeros(2, 3, 9)}, r"expected total \[2, 3, 8\], got \[2, 3, 9\]"),
        ({"total": zeros(2, 3, 8, dtype=F16)}, "expected total of float32, got torch.float16"),
        ({"norm": "l1"}, "ascend: expected norm 'linf' or 'l2', got 'l1'"),
        ({"scale": None}, "ascend: expected the gradient's scale for norm 'l2', got none"),
        ({"scale": zeros(3)}, r"expected scale \[2\], got \[3\]"),
        ({"scale": zeros()}, r"expected scale \[2\], got \[\]"),
        ({"scale": zeros(2, dtype=BF16)}, "expected scale of float32, got torch.bfloat16"),
    ]),
    (zero_shot_head, {"embedding": F, "class_weights": zeros(5, 7), "scale": zeros()}, [
        ({"embedding": zeros(2, 5, dtype=BF16)},
         "expected embedding of float32 or float64, got torch.bfloat16"),
        ({"embedding": zeros(5)}, r"expected embedding \[B, D\], got \[5\]"),
        ({"class_weights": zeros(7, 5)}, r"expected class_weights \[5, C\], got \[7, 5\]"),
        ({"class_weights": zeros(5)}, r"expected class_weights \[5, C\], got \[5\]"),
        ({"class_weights": zeros(5, 7, dtype=F64)}, "expected class_weights of float32, got torch.float64"),
        ({"class_weights": zeros(7, 5).mT}, "expected contiguous class_weights"),
        ({"scale": zeros(1)}, r"expected scale \[\], got \[1\]"),
        ({"scale": zeros(dtype=F64)}, "expected scale of float32, got torch.float64"),
        ({"scale": 100.0}, "expected scale as a tensor, got float"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "right", "wrong", "message"),
    [(operator, right, *row) for operator, right, rows in DOOR for row in rows],
)
def test_bad_input(operator, right, wrong, message):
    operator(**right)
    with pytest.raises(InputError, match=message):
        operator(**right | wrong)


# The same of the operators' schemas: nothing that skips the door makes the C++ form read beyond a tensor.
PERTURB = {"pixels": PIXELS, "noise": PIXELS, "seeds": None, "images": None, "eps": 0.1,
           "patch_height": 2, "patch_width": 3, "l2": False}  # fmt: skip


def strided(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.mT.contiguous().mT


ASCEND = {"x": X, "d": X, "gradient": X, "total": X, "scale": zeros(2), "weight_before": 0.1, "weight": 0.1,
          "eps": 0.1, "step_size": 0.1, "l2": True, "last": False}  # fmt: skip
UNGUARDED = {
    "perturb": (PERTURB, [
        {"pixels": zeros(3, 4, 6)}, {"pixels": zeros(2, 3, 4, 6, dtype=I32)}, {"pixels": zeros(2, 3, 5, 6)},
        {"pixels": PIXELS.double()}, {"noise": zeros(2, 3, 4, 5)}, {"noise": zeros(1, 3, 4, 6)},
        {"noise": zeros(2, 3, 4, 6, dtype=F16)}, {"noise": PIXELS.double()}, {"noise": None},
        {"pixels": strided(PIXELS)}, {"noise": strided(PIXELS)},
        {"patch_height": 3}, {"patch_width": 4}, {"patch_height": -2}, {"patch_width": 0},
    ]),
    "perturb drawn": (PERTURB | {"noise": None} | KEYS, [
        {"seeds": None}, {"images": None}, {"seeds": zeros(1, dtype=I64)}, {"images": zeros(3, dtype=I64)},
        {"seeds": zeros(2, dtype=I32)}, {"images": zeros(2)}, {"seeds": zeros(dtype=I64)},
        {"pixels": zeros(3, 3, 4, 6)},
    ]),
    "drift_gate": ({"clean": F, "noisy": F, "threshold": zeros()}, [
        {"clean": zeros(5), "noisy": zeros(5)}, {"noisy": zeros(2, 4)}, {"noisy": zeros(1, 5)},
        {"noisy": zeros(2, 5, dtype=BF16)}, {"noisy": strided(F)}, {"clean": F.double(), "noisy": F.double()},
        {"clean": F.long(), "noisy": F.long()}, {"threshold": zeros(3)}, {"threshold": zeros(dtype=F16)},
    ]),
    "cotangent": ({"embedding": F, "clean": F}, [
        {"clean": zeros(2, 4)}, {"clean": zeros(3, 5)}, {"embedding": zeros(5), "clean": zeros(5)},
        {"embedding": zeros(2, 5, dtype=F16)}, {"embedding": strided(F)},
        {"embedding": F.double(), "clean": F.double()},
    ]),
    "ascend": (ASCEND, [
        {"d": zeros(2, 3, 7)}, {"gradient": zeros(2, 3)}, {"total": zeros(1, 3, 8)}, {"d": zeros(1, 3, 8)},
        {"x": X.double()}, {"d": X.double()}, {"gradient": X.double()}, {"total": X.half()},
        {"gradient": X.long()}, {"scale": None}, {"scale": zeros(1)}, {"scale": zeros(2, dtype=F64)},
        {"x": zeros(), "d": zeros(), "gradient": zeros(), "total": zeros()},
        *({name: strided(X)} for name in ("x", "d", "gradient", "total")),
    ]),
    "zero_shot_head": ({"embedding": F, "class_weights": zeros(5, 7), "scale": zeros()}, [
        {"class_weights": zeros(7, 5)}, {"class_weights": zeros(5)}, {"embedding": zeros(5)},
        {"scale": zeros(2)}, {"embedding": F.bfloat16()}, {"class_weights": zeros(5, 7, dtype=F64)},
        {"scale": zeros(dtype=F64)},
    ]),
}  # fmt: skip


@CPP_ONLY
@pytest.mark.parametrize(
    ("case", "wrong"), [(case, wrong) for case, (_, rows) in UNGUARDED.items() for wrong in rows]
)
def test_cpp_refuses_what_does_not_fit(case, wrong):
    name, right = case.split()[0], UNGUARDED[case][0]
    operator = getattr(torch.ops.clipfast, name)
    operator(**right)
    with pytest.raises(RuntimeError, match=f"clipfast::{name}"):
        operator(**right | wrong)

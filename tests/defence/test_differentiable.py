"""The smoothed sign that gradients run through; the module itself is tested with the classifier."""

from __future__ import annotations

import pytest
import torch

from clipfast.defence.differentiable import smooth_sign


def test_a_smooth_sign_is_measured_by_each_image_s_own_gradient():
    gradient = (
        torch.randn(3, 3, 4, 5, dtype=torch.float64) * torch.tensor([1e-6, 1.0, 1e6])[:, None, None, None]
    )
    for image, smoothed in zip(gradient, smooth_sign(gradient, smoothing=0.3), strict=True):
        assert smoothed.equal(smooth_sign(image[None], smoothing=0.3)[0])
        torch.testing.assert_close(smoothed, torch.tanh(image / (0.3 * image.abs().mean())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_there_is_no_gradient_there_is_no_direction(dtype):
    assert smooth_sign(torch.zeros(1, 3, 2, 2, dtype=dtype)).equal(torch.zeros(1, 3, 2, 2, dtype=dtype))

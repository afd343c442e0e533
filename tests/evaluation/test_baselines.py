import torch

from clipfast.evaluation.baselines import blur, random_noise


def test_blur_is_a_three_by_three_mean_with_replicated_edges():
    x = torch.rand(2, 3, 5, 6)
    blurred = blur(x)
    assert blurred.shape == x.shape
    torch.testing.assert_close(blurred[:, :, 2, 3], x[:, :, 1:4, 2:5].mean(dim=(2, 3)))
    corner = (4 * x[:, :, 0, 0] + 2 * x[:, :, 0, 1] + 2 * x[:, :, 1, 0] + x[:, :, 1, 1]) / 9
    torch.testing.assert_close(blurred[:, :, 0, 0], corner)
    flat = torch.full((1, 3, 4, 4), 0.7)
    torch.testing.assert_close(blur(flat), flat)


def test_random_noise_stays_in_budget_and_bounds():
    x = torch.rand(4, 3, 16, 16)
    x[0] = 1.0
    noisy = random_noise(x, eps=0.05, generator=torch.Generator().manual_seed(1))
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    difference = noisy - x
    assert difference.abs().max() <= 0.05 + 1e-6
    assert difference[1:].std() > 0.025
    assert torch.equal(noisy, random_noise(x, eps=0.05, generator=torch.Generator().manual_seed(1)))

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clipfast import InputError
from clipfast.attacks.losses import loss_function, targeted_margin

Z = torch.tensor([[3.0, 1.0, 2.5, -1.0], [0.0, 4.0, 1.0, 3.0], [0.0, 4.0, 1.0, 3.0]])
Y = torch.tensor([0, 1, 2])


def test_are_what_their_papers_define():
    torch.testing.assert_close(loss_function("cross-entropy")(Z, Y), F.cross_entropy(Z, Y, reduction="none"))
    assert loss_function("margin")(Z, Y).tolist() == [-0.5, -1.0, 3.0]
    # -(z_y - max_(i != y) z_i) / (z_(1) - z_(3))
    torch.testing.assert_close(loss_function("dlr")(Z, Y), torch.tensor([-0.5 / 2, -1 / 3, 3 / 3]))
    rows = torch.tensor([2, 0])
    goal = torch.tensor([1, 3, 0])
    assert targeted_margin(Y, goal)(Z[rows], rows).tolist() == [0 - 1.0, 1.0 - 3.0]


def test_dlr_knows_no_scale_and_no_shift():
    dlr = loss_function("dlr")
    torch.testing.assert_close(dlr(7 * Z + 3, Y), dlr(Z, Y))


def test_bad_losses_are_named():
    with pytest.raises(InputError, match=r"loss must be one of .*'margin'.*, got 'hinge'"):
        loss_function("hinge")
    with pytest.raises(InputError, match="at least 3 classes for the DLR loss, got 2"):
        loss_function("dlr")(Z[:, :2], Y.clamp(max=1))

from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import pytest
import torch
from absent import absent
from conftest import make_classifier, pixels
from lab import VIEWS_ALONE

from clipfast import CounterattackConfig, InputError
from clipfast.evaluation.adapters import RandomisedDefenceWarning, as_art, as_foolbox, as_function


@pytest.fixture
def x():
    return pixels(6).float() / 255


def quietly(make, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomisedDefenceWarning)
        return make(*args, **kwargs)


class StubbedFoolbox(types.ModuleType):
    """What clipfast uses of foolbox: PyTorchModel(model, bounds, device), which calls the model."""

    class PyTorchModel:
        def __init__(self, model, bounds, device=None, preprocessing=None):
            assert isinstance(model, torch.nn.Module)
            assert not model.training
            assert preprocessing is None
            self.bounds, self.device, self._model = bounds, device, model.to(device)

        def __call__(self, inputs):
            with torch.set_grad_enabled(inputs.requires_grad):
                return self._model(inputs)


class StubbedAutoAttack:
    """AutoAttack's interface: a forward pass, whose randomness and gradients it relies on."""

    def __init__(self, model, norm="Linf", eps=0.3, version="standard"):
        assert norm == "Linf"
        self.model, self.eps, self.eot = model, eps, 20 if version == "rand" else 1

    def run_standard_evaluation(self, x_orig, y_orig, bs=250):
        leaf = x_orig[:bs].clone().requires_grad_()
        gradient = torch.zeros_like(leaf)
        for _ in range(self.eot):
            with torch.enable_grad():
                losses = torch.nn.functional.cross_entropy(self.model(leaf), y_orig, reduction="none")
            gradient += torch.autograd.grad(losses.sum(), [leaf])[0].detach()
        return (x_orig + self.eps * gradient.sign()).clamp(0, 1)


def test_each_says_that_it_is_randomised_and_optimises(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", StubbedFoolbox("foolbox"))
    for make in (as_function, as_art, as_foolbox):
        with pytest.warns(RandomisedDefenceWarning, match="draws noise and optimises at inference") as caught:
            made = make(classifier)
        assert len(caught) == 1
        assert caught[0].filename == __file__
    assert issubclass(RandomisedDefenceWarning, UserWarning)
    function, art = quietly(as_function, classifier, samples=3), quietly(as_art, classifier)
    for model in (function, art.model, made._model):
        assert model.randomised
        assert model.optimises_at_inference
        assert "randomised=True" in repr(model)
    assert "randomised=True" in repr(art)
    assert "mode='bpda', samples=3" in repr(function)


@pytest.mark.parametrize("mode", ["bpda", "unrolled"])
def test_the_function_is_the_defence_with_its_gradient(classifier, x, mode):
    function = quietly(as_function, classifier, mode=mode)
    torch.manual_seed(3)
    logits = function(leaf := x.clone().requires_grad_())
    torch.manual_seed(3)
    expected = classifier.differentiable(mode)(other := x.clone().requires_grad_())
    assert torch.equal(logits, expected)
    assert torch.equal(
        *(torch.autograd.grad(z[:, 0].sum(), p)[0] for z, p in ((logits, leaf), (expected, other)))
    )
    assert not torch.equal(function(x), function(x))  # fresh noise


def test_samples_are_averaged(classifier, x):
    torch.manual_seed(3)
    several = quietly(as_function, classifier, samples=3)(x)
    torch.manual_seed(3)
    defence = classifier.differentiable("bpda")
    torch.testing.assert_close(several, (defence(x) + defence(x) + defence(x)) / 3)


def test_art_attacks_it(classifier, x):
    from art.attacks.evasion import ProjectedGradientDescent

    estimator = quietly(as_art, classifier, samples=2)
    labels = classifier.undefended(x).argmax(dim=1).numpy()
    assert estimator.input_shape == (3, 32, 32)
    assert estimator.nb_classes == len(classifier.classnames)
    before = estimator.compute_loss(x.numpy(), labels, reduction="none")
    attack = ProjectedGradientDescent(estimator, eps=0.05, eps_step=0.02, max_iter=5, verbose=False)
    attacked = attack.generate(x.numpy(), labels)
    assert attacked.dtype == np.float32
    assert np.abs(attacked - x.numpy()).max() <= 0.05 + 1e-6
    assert estimator.compute_loss(attacked, labels, reduction="none").mean() > before.mean() + 0.1


def test_foolbox_holds_it(classifier, x, monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", StubbedFoolbox("foolbox"))
    model = quietly(as_foolbox, classifier)
    assert model.bounds == (0, 1)
    assert model.device == classifier.device
    assert not model(x).requires_grad
    leaf = x.clone().requires_grad_()
    assert torch.autograd.grad(model(leaf).sum(), leaf)[0].abs().max() > 0


def test_autoattack_calls_it(classifier, x):
    function = quietly(as_function, classifier)
    labels = classifier.undefended(x).argmax(dim=1)
    adversary = StubbedAutoAttack(function, eps=0.05, version="rand")
    attacked = adversary.run_standard_evaluation(x, labels, bs=6)
    with torch.no_grad():
        before, after = (torch.nn.functional.cross_entropy(function(p), labels) for p in (x, attacked))
    assert after > before + 0.1


@pytest.mark.parametrize(
    ("make", "package", "named"),
    [
        (as_art, "art", r"an ART estimator needs art.*clipfast\[art\]"),
        (as_foolbox, "foolbox", r"a foolbox model needs foolbox.*clipfast\[foolbox\]"),
    ],
)
def test_a_missing_library_names_its_extra(classifier, make, package, named):
    with absent(package), pytest.raises(ModuleNotFoundError, match=named):
        make(classifier)


@pytest.mark.parametrize("make", [as_function, as_art])
def test_bad_settings_are_named(classifier, make):
    with pytest.raises(InputError, match="mode must be 'bpda' or 'unrolled', got 'undefended'"):
        make(classifier, mode="undefended")
    with pytest.raises(InputError, match="samples must be an integer"):
        make(classifier, samples=0)


def test_settings_that_draw_nothing_and_move_nothing_are_no_randomised_defence(tiny_clip, tokenizer):
    fixed = make_classifier(tiny_clip, tokenizer, config=CounterattackConfig(**VIEWS_ALONE))
    function = as_function(fixed)  # a warning would be an error
    assert not function.randomised
    assert not function.optimises_at_inference
    assert "randomised=False, optimises_at_inference=False" in repr(function)
    steady = CounterattackConfig(gate="agreement", pass_through="noise", steps=0)
    with pytest.warns(RandomisedDefenceWarning, match="this classifier draws noise: attack it with several"):
        as_function(make_classifier(tiny_clip, tokenizer, config=steady))

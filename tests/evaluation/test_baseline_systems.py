"""The baselines as systems: their answers, their seeds, what they cost, and their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import WORDS, make_classifier, pixels
from torch import Tensor

from clipfast import CounterattackConfig, DefendedClassifier
from clipfast.attacks import make as make_attack
from clipfast.attacks.pass_counter import PassCounter
from clipfast.attacks.system import System, undefended
from clipfast.defence.differentiable import smooth_sign, twice_differentiable
from clipfast.defence.passes import Passes
from clipfast.evaluation.defences import baselines, systems
from clipfast.evaluation.defences.baselines import ET3, HEDGE, NormalisedSteps, views
from clipfast.evaluation.defences.purification import Turns
from clipfast.inputs import draws
from clipfast.models.shapes import draw
from clipfast.models.tokenizer import WordTokenizer
from clipfast.reference_stages import low_pass

CONFIG = CounterattackConfig(steps=3, step_size=2 / 255, transform="low_pass 6")
MAKERS = {
    maker.__name__: maker
    for maker in (
        systems.low_passed,
        systems.ensembled,
        systems.purified,
        systems.anti_adversarial,
        systems.hedged,
        systems.energy_lowered,
    )
}
NAMES = list(MAKERS)
DIRECT, OPTIMISING = NAMES[:3], NAMES[3:]


@pytest.fixture
def classifier(tiny_clip, tokenizer) -> DefendedClassifier:
    return make_classifier(tiny_clip, tokenizer, config=CONFIG)


@pytest.fixture
def x() -> Tensor:
    return pixels(8).float() / 255


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_noise_is_that_of_the_settings_for_attackers_too(norm):
    class Plain:
        config = CounterattackConfig(norm=norm, eps=0.05 if norm == "linf" else 2.0)

        def differentiable(self, _: str):
            return lambda pixels: pixels

    x = torch.rand(6, 3, 16, 16)
    x[0] = 1.0
    system = systems.noisy(Plain())  # pyright: ignore[reportArgumentType]
    answered = system.answer(x, seed=3, first_image=2).logits
    assert torch.equal(answered, system.answer(x, seed=3, first_image=2).logits)
    for noisy in (answered, system.attackable(x)):
        assert noisy.min() >= 0
        assert noisy.max() <= 1
        difference = (noisy - x)[1:]
        size = difference.abs().amax() if norm == "linf" else difference.flatten(1).norm(dim=1).amax()
        assert 0.2 * Plain.config.eps < size <= Plain.config.eps + 1e-6
    leaf = x.clone().requires_grad_()
    system.attackable(leaf).sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(x))  # of white pixels too


def logits_of(system: System, x: Tensor, **options: int) -> Tensor:
    with torch.no_grad():
        return system.answer(x, **{"seed": 3, **options}).logits


def moved(classifier: DefendedClassifier, x: Tensor, start: Tensor, sign: float, target: Tensor) -> Tensor:
    """Signed steps along the gradient of the cross-entropy to some probabilities."""
    d = (x + start).clamp(0, 1) - x
    for _ in range(CONFIG.steps):
        leaf = d.clone().requires_grad_()
        loss = F.cross_entropy(classifier.undefended(x + leaf), target, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        d = (d + sign * CONFIG.step_size * gradient.sign()).clamp(-CONFIG.eps, CONFIG.eps)
        d = (x + d).clamp(0, 1) - x
    return x + d


def lowered(classifier: DefendedClassifier, x: Tensor) -> Tensor:
    """ET3's steps, 5/255 per pixel at most."""
    ended = x
    for _ in range(2):
        leaf = ended.clone().requires_grad_()
        energy = -classifier.undefended(leaf).exp().sum(dim=1).log()
        (gradient,) = torch.autograd.grad(energy.sum(), leaf)
        unit = F.normalize(gradient.flatten(1), dim=1).view_as(x)
        ended = torch.minimum(torch.maximum(ended - 2.5 * unit, x - 5 / 255), x + 5 / 255).clamp(0, 1)
    return ended


def turned(classifier: DefendedClassifier, x: Tensor) -> Tensor:
    """Logits of embeddings after CLIPure-Cos's steps, in the plane of each and the null prompt."""
    model, tokenizer = classifier.image_tower.model, WordTokenizer(WORDS, context_length=10)
    (null,) = F.normalize(model.encode_text(tokenizer("this is a photo of a")), dim=1).detach()
    f = F.normalize(classifier.image_tower(x), dim=1)
    beside = F.normalize(f - (f @ null)[:, None] * null, dim=1)
    angle = torch.arccos(f @ null)
    for _ in range(10):  # on either side of the null prompt
        angle = angle - angle.sign() * torch.tensor(30.0).atan()
    ended = angle.cos()[:, None] * null + angle.sin()[:, None] * beside
    return classifier.logit_scale * ended @ classifier.class_weights


def expected(classifier: DefendedClassifier, name: str, x: Tensor) -> Tensor:
    """The logits of the seed 3."""
    undefended = classifier.undefended
    if name == "low_passed":
        smooth = low_pass(x, 6)
        return undefended(smooth - (smooth - smooth.clamp(0, 1)).detach())
    if name == "ensembled":
        return sum(undefended(view) for view in views(x)) / 10
    if name == "purified":
        return turned(classifier, x)
    if name == "energy_lowered":
        return undefended(lowered(classifier, x))
    classes = undefended(x).shape[1]
    if name == "anti_adversarial":
        own = F.one_hot(undefended(x).argmax(dim=1), classes).float()
        return undefended(moved(classifier, x, torch.zeros_like(x), -1, own))
    noise = draws.draw_noise(draws.seeded(3, 0, len(x), x.device), x.shape, CONFIG)
    uniform = torch.full((len(x), classes), 1 / classes)
    return undefended(moved(classifier, x, noise, 1, uniform))


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_a_computation_by_hand(classifier, x, name):
    ours, theirs = logits_of(MAKERS[name](classifier), x), expected(classifier, name, x).detach()
    # Where a gradient is about 0 rounding turns signs, of few pixels.
    atol = 1e-4 if name in DIRECT else 5e-3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
    assert (ours - classifier.undefended(x)).abs().max() > 0.02


@pytest.mark.parametrize("name", NAMES)
def test_a_list_may_be_cut_anywhere_and_a_seed_gives_the_same_again(classifier, x, name):
    system = MAKERS[name](classifier)
    whole = logits_of(system, x)
    parts = torch.cat([logits_of(system, x[:3]), logits_of(system, x[3:], first_image=3)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=5e-3)
    assert torch.equal(logits_of(system, x), whole)
    assert system.randomised == (name == "hedged")
    same = torch.equal(logits_of(system, x, seed=4), whole)
    assert same != system.randomised
    if system.randomised:
        assert (logits_of(system, x[3:]) - whole[3:]).abs().max() > 5e-3


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("low_passed", 1, 0),
        ("ensembled", 10, 0),
        ("purified", 1, 0),
        ("anti_adversarial", 5, 3),
        ("hedged", 4, 3),
        ("energy_lowered", 3, 2),
    ],
)
def test_passes_are_those_of_the_docstrings(classifier, x, name, forward, backward):
    system = MAKERS[name](classifier)
    with PassCounter(classifier) as counter:
        logits_of(system, x)
    assert counter.an_image(len(x)) == Passes(forward, backward)


def test_settings_may_be_others_than_the_classifiers(classifier, x):
    with PassCounter(classifier) as counter:
        logits_of(systems.hedged(classifier, HEDGE), x)
    assert counter.an_image(len(x)) == Passes(21, 20)
    gentle = CounterattackConfig(steps=1, eps=1e-6, step_size=1e-6)
    near = logits_of(systems.anti_adversarial(classifier, gentle), x)
    torch.testing.assert_close(near, classifier.undefended(x), rtol=0, atol=1e-3)
    with PassCounter(classifier) as counter:
        logits_of(systems.energy_lowered(classifier, NormalisedSteps(eps=1e-6, step_size=1.0, steps=4)), x)
    assert counter.an_image(len(x)) == Passes(5, 4)
    halfway = logits_of(systems.purified(classifier, Turns(step_size=1.0, steps=50)), x)
    assert (halfway.argmax(dim=1) != logits_of(systems.purified(classifier), x).argmax(dim=1)).any()


def gradient_of(logits, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    torch.manual_seed(7)
    answer = logits(leaf)
    return answer.detach(), torch.autograd.grad(answer[:, 1].sum(), leaf)[0]


@pytest.mark.parametrize("name", DIRECT)
def test_where_no_pixel_is_moved_by_steps_the_gradient_is_that_of_the_answer(classifier, x, name):
    system = MAKERS[name](classifier)
    answer, gradient = gradient_of(system.attackable, x)
    torch.testing.assert_close(answer, logits_of(system, x), rtol=0, atol=1e-4)
    wanted = gradient_of(lambda p: expected(classifier, name, p), x)[1]
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())
    assert system.unrolled is None


@pytest.mark.parametrize("name", OPTIMISING)
def test_attackers_hold_the_steps_constant_or_go_through_them(classifier, x, name):
    system = MAKERS[name](classifier)
    start = torch.zeros_like(x)
    if name == "hedged":
        torch.manual_seed(7)
        seed = int(torch.randint(2**62, ()))
        start = draws.draw_noise(draws.seeded(seed, 0, len(x), x.device), x.shape, CONFIG)
    answer, held = gradient_of(system.attackable, x)
    own = F.one_hot(classifier.undefended(x).argmax(dim=1), answer.shape[1]).float()
    uniform = torch.full_like(own, 1 / own.shape[1])
    ended = {
        "anti_adversarial": lambda: moved(classifier, x, start, -1, own),
        "hedged": lambda: moved(classifier, x, start, 1, uniform),
        "energy_lowered": lambda: lowered(classifier, x),
    }[name]()
    wanted, gradient = gradient_of(classifier.undefended, ended)
    torch.testing.assert_close(answer, wanted, rtol=0, atol=5e-3)
    cosine = torch.cosine_similarity(held.flatten(1), gradient.flatten(1), dim=1)
    assert cosine.min() > 0.999
    assert system.unrolled is not None
    torch.manual_seed(7)  # the same noise again
    _, through = gradient_of(system.unrolled, x)
    assert through.isfinite().all()
    assert (through - held).abs().max() > 0.05 * held.abs().max()
    plain, options = classifier.undefended, {"sign": smooth_sign, "create_graph": True}
    optimised = {
        "anti_adversarial": lambda p: baselines.anti_adversary(plain, p, CONFIG, **options),
        "hedged": lambda p: baselines.hedge(plain, p, start, CONFIG, **options),
        "energy_lowered": lambda p: baselines.energy_lowered(plain, p, ET3, create_graph=True),
    }[name]

    def smoothly(pixels):
        with twice_differentiable():
            return plain(optimised(pixels))

    _, wanted = gradient_of(smoothly, x)
    torch.testing.assert_close(through, wanted, rtol=0, atol=1e-3 * wanted.abs().max().item())


@pytest.mark.parametrize(
    "make",
    [systems.blurred, systems.low_passed, systems.ensembled, systems.noisy, systems.purified],
)
def test_flat_white_is_seen_by_attackers(classifier, make):
    white = torch.ones(1, 3, *classifier.image_size)
    _, gradient = gradient_of(make(classifier).attackable, white)
    assert (gradient.abs() > 1e-3 * gradient.abs().max()).float().mean() > 0.9


def test_the_attackable_hedge_draws_anew_each_time(classifier, x):
    system = systems.hedged(classifier)
    assert not torch.equal(system.attackable(x), system.attackable(x))


@pytest.mark.parametrize(
    ("make", "attack"),
    [
        (systems.purified, "bpda"),
        (systems.energy_lowered, "bpda"),
        (systems.energy_lowered, "unrolled"),
    ],
)
def test_attacks_through_them_are_about_as_strong_as_the_transferred_one(bundled, make, attack):
    pictures = draw(32, seed=(84,), size=bundled.image_size[0])
    x, labels = torch.from_numpy(pictures.pixels).float() / 255, torch.from_numpy(pictures.labels)
    system = make(bundled)

    def right(pixels: Tensor) -> Tensor:
        return logits_of(system, pixels).argmax(dim=1) == labels

    kept = right(x)
    assert kept.sum() >= 10
    x, labels = x[kept][:10], labels[kept][:10]
    transferred = make_attack("pgd-10").run(undefended(bundled), x, labels, eps=2 / 255, seed=0)
    attacked = make_attack(attack).run(system, x, labels, eps=2 / 255, seed=0)
    left = right(attacked.pixels).sum()
    assert left <= 5
    assert left <= right(transferred.pixels).sum() + 1

"""Forms that are chosen by trials: which, how they are kept, and that the answers are those of any form."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import make_classifier, pixels
from torch import Tensor
from towers import make_tower, smooth

from clipfast import InputError
from clipfast.encoders import product_trials
from clipfast.encoders.linear import MklProduct, PlainProduct, product_forms
from clipfast.encoders.product_trials import Layer, choose_products
from clipfast.encoders.vit import VitEncoder
from clipfast.measurement import trials
from clipfast.measurement.trials import Trial, choose, fastest, keep, kept
from clipfast.ops import implementations

LAYERS = [Layer(torch.randn(24, 16), torch.randn(24)), Layer(torch.randn(16, 24), None)] * 2
FORMS = [form.name for form in product_forms(torch.float32)]


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(trials, "_trials", {})
    monkeypatch.delenv(trials.FOLDER_VARIABLE, raising=False)


class Clock:
    """Time that stands still but for what products take of it."""

    def __init__(self, monkeypatch, costs: dict[tuple[str, bool], float], disturbed=lambda _: False) -> None:
        self.now, self.tried = 0.0, 0
        self.of_shape: dict[tuple[int, bool], dict[str, float]] = {}  # by columns, and whether rows are many
        for module in (product_trials, trials):
            monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

        def form(name: str) -> type[PlainProduct]:
            class Timed(PlainProduct):
                def __call__(timed, x: Tensor) -> Tensor:  # noqa: N805
                    of_shape = {} if timed.transposed else self.of_shape.get((x.shape[1], len(x) > 50), {})
                    self.now += of_shape.get(name, costs[name, len(x) > 50])
                    self.now += 100 * disturbed(self.tried)
                    self.tried += 1
                    return super().__call__(x)

            Timed.name = name
            return Timed

        forms = tuple(form(name) for name in ("first", "second"))
        monkeypatch.setattr(product_trials, "product_forms", lambda _: forms)


def chosen(**options) -> dict[str, tuple[str, str]]:
    choices = choose_products(LAYERS, torch.float32, few=10, many=80, **{"tune": True, **options})
    assert choices.keys() == {(24, 16), (16, 24)}
    (choice,) = set(choices.values())
    return {
        rows: (forms.forward.name, forms.gradient.name)
        for rows, forms in (("few", choice.few), ("many", choice.many))
    } | {"limit": choice.limit}


@pytest.mark.parametrize(
    ("few", "many", "expected"),
    [
        ((1, 1.5), (2, 3), ("first", "first")),
        ((1, 0.5), (2, 1), ("second", "second")),
        ((1, 0.5), (2, 3), ("second", "first")),  # each by its own rows
        ((1, 0.98), (2, 3), ("first", "first")),  # not clearly faster
        ((1, 0.96), (2, 1.98), ("second", "first")),
        ((1, 1.02), (2, 1), ("second", "second")),  # not worth the memory of another form
    ],
)
def test_the_fastest_is_taken_for_few_rows_and_for_many(monkeypatch, few, many, expected):
    costs = {("first", False): few[0], ("second", False): few[1]}
    Clock(monkeypatch, costs | {("first", True): many[0], ("second", True): many[1]})
    found = chosen()
    assert found == {"few": (expected[0],) * 2, "many": (expected[1],) * 2, "limit": 28}


def test_what_was_tried_is_not_tried_again(monkeypatch):
    clock = Clock(
        monkeypatch, {(name, many): 0.001 for name in ("first", "second") for many in (False, True)}
    )
    chosen()
    tried = clock.tried
    assert tried == 2 * 2 * 4 * 2 * 6  # rows, forms, layers, directions, rounds with that of warm-up
    chosen()
    assert clock.tried == tried
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    chosen()
    assert clock.tried == 2 * tried


def test_a_trial_ends_with_its_time(monkeypatch):
    clock = Clock(monkeypatch, {(name, many): 10.0 for name in ("first", "second") for many in (False, True)})
    chosen()
    assert clock.tried == 2 * 2 * 4 * 2 * 4  # of each number of rows the round of warm-up and three more


def test_other_work_on_the_machine_does_not_decide(monkeypatch):
    costs = {("first", False): 1, ("second", False): 0.5, ("first", True): 2, ("second", True): 1}
    Clock(monkeypatch, costs, disturbed=lambda call: call % 3 != 0)
    assert chosen() == {"few": ("second",) * 2, "many": ("second",) * 2, "limit": 28}


def test_a_shape_takes_a_form_of_its_own_only_where_that_is_clearly_faster(monkeypatch):
    for share, expected in ((0.95, "first"), (0.85, "second")):
        monkeypatch.setattr(trials, "_trials", {})
        costs = {(name, many): 1.0 for name in ("first", "second") for many in (False, True)}
        clock = Clock(monkeypatch, costs)
        clock.of_shape[16, False] = {"second": share, "first": 1.0}
        clock.of_shape[24, False] = {"second": 1.3, "first": 1.0}
        choices = choose_products(LAYERS, torch.float32, few=10, many=80, tune=True)
        assert choices[24, 16].few.forward.name == expected
        assert choices[16, 24].few.forward.name == "first"
        assert choices[24, 16].many.forward.name == "first"


def test_without_trials_the_first_or_the_named_is_taken():
    assert chosen(tune=False) == {"few": (FORMS[0],) * 2, "many": (FORMS[0],) * 2, "limit": 0}
    assert chosen(tune="plain") == {"few": ("plain",) * 2, "many": ("plain",) * 2, "limit": 0}
    assert not kept()
    for unknown in ("fast", 1, None):
        with pytest.raises(
            InputError, match=f"tune must be True, False or one of .*plain here, got {unknown!r}"
        ):
            chosen(tune=unknown)


def test_trials_are_kept_in_a_folder(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv(trials.FOLDER_VARIABLE, str(tmp_path / "new" / "folder"))
    keep({"a": Trial("x", {"x": 1.0, "y": 2.0})})
    (file,) = (tmp_path / "new" / "folder").iterdir()
    monkeypatch.setattr(trials, "_trials", {})
    assert kept() == {"a": Trial("x", {"x": 1.0, "y": 2.0})}
    calls = []
    forms = {"x": lambda: calls.append("x"), "y": lambda: calls.append("y")}
    assert fastest("a", forms, preferred="y", seconds=1.0) == "x"
    assert not calls
    assert fastest("a", {**forms, "z": lambda: None}, preferred="z", seconds=0.0) in "xyz"  # other forms
    assert calls
    for broken in ("{", '{"a": 1}', '{"a": ["x", {"x": "fast"}]}', "[]"):
        file.write_text(broken)
        monkeypatch.setattr(trials, "_trials", {})
        assert kept() == {}
        assert "trials in" in caplog.text
    monkeypatch.setattr(trials, "__version__", "another")
    keep({"b": Trial("x", {"x": 1.0})})
    assert len(list(file.parent.iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv(trials.FOLDER_VARIABLE, str(tmp_path / "file"))
    keep({"a": Trial("x", {"x": 1.0})})
    assert "trials are not kept" in caplog.text
    assert kept() == {"a": Trial("x", {"x": 1.0})}


def test_times_are_compared_by_the_image():
    assert choose({"a": 1.0, "b": 0.9}, "a") == "b"
    assert choose({"a": 1.0, "b": 0.98}, "a") == "a"
    assert choose({"a": 1.0, "b": 0.9}, "a", 0.85) == "a"
    done = []

    def spend(n: int) -> None:
        done.append(torch.randn(300, 300) @ torch.randn(300, 300 * n))

    sizes = {"1": 1, "40": 40}
    forms = {name: lambda n=n: spend(n) for name, n in sizes.items()}
    fastest("sizes", forms, preferred="1", seconds=0.2, images=sizes)
    taken = kept()["sizes"].seconds
    assert taken["40"] < 10 * taken["1"]


@pytest.mark.parametrize("tune", [True, *FORMS])
def test_any_choice_gives_the_tower_s_answers(tune):
    tower = make_tower(gain=8.0)
    encoder, x = VitEncoder(tower.model.visual, tune=tune), smooth(12, tower.image_size)
    layout = encoder.to_layout(x)
    base, d = encoder.project(layout), torch.full_like(layout, 0.01)
    embedding, saved = encoder.forward(base, d)
    gradient = encoder.from_layout(encoder.input_gradient(saved, torch.ones_like(embedding)))
    moved = (x + 0.01).requires_grad_()
    expected = tower(moved)
    (pulled,) = torch.autograd.grad(expected, moved, torch.ones_like(expected))
    torch.testing.assert_close(encoder.embed(base), tower(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(embedding, expected, rtol=1e-5, atol=1e-5)
    assert (gradient - pulled).abs().max() < 5e-5 * pulled.abs().max()


def test_double_batches_attention_and_chunks_follow_the_trials(monkeypatch):
    verdicts = {"attention": "plain", "double": "two passes", "chunk": "16"}

    def decided(what: str, forms, **_) -> str:
        verdict = verdicts[what.split()[0]]
        assert verdict in forms
        return verdict

    monkeypatch.setattr("clipfast.encoders.vit.fastest", decided)
    tower = make_tower()
    encoder = VitEncoder(tower.model.visual)
    assert [encoder.prefers_double(n) for n in (1, 3, 4)] == [False] * 3
    assert not any(block.flash for block in encoder._blocks)
    assert encoder.chunk == 16
    verdicts["double"] = "double"
    encoder = VitEncoder(tower.model.visual)
    assert [encoder.prefers_double(n) for n in (1, 3, 4)] == [True] * 3
    usual = VitEncoder(tower.model.visual, tune=False)
    assert all(block.flash for block in usual._blocks)
    assert usual.chunk == 8


@pytest.mark.filterwarnings("ignore:tau_threshold:clipfast.UncalibratedWarning")
def test_a_classifier_tells_what_it_tried_and_takes_a_name(tiny_clip, tokenizer):
    x = pixels(3)
    tried = make_classifier(tiny_clip, tokenizer)
    logits = tried.predict(x, seed=0).logits
    found = implementations().trials
    assert any(what.startswith("product float32") for what in found)
    assert all(trial.chosen in trial.seconds for trial in found.values())
    json.dumps(found)
    named = make_classifier(tiny_clip, tokenizer, tune="plain")
    torch.testing.assert_close(named.predict(x, seed=0).logits, logits, rtol=0, atol=5e-3)
    product = named.engine.encoder._blocks[0].qkv._many[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert type(product) is PlainProduct
    with pytest.raises(InputError, match="tune must be"):
        make_classifier(tiny_clip, tokenizer, tune="quick")


@pytest.mark.skipif("mkl" not in FORMS, reason="this PyTorch has no MKL")
def test_a_named_form_is_taken_for_all_layers():
    encoder = VitEncoder(make_tower().model.visual, tune="mkl")
    assert all(isinstance(side, MklProduct) for block in encoder._blocks for side in block.mlp.fc1._many)

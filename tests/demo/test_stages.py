"""A defence's stages in plain words."""

from __future__ import annotations

import dataclasses

import pytest

from clipfast import CounterattackConfig
from clipfast.config import GATES
from clipfast.demo.stages import stages

PUBLISHED = CounterattackConfig(tau_threshold=0.0236)
OTHER = CounterattackConfig(
    gate="agreement",
    transform="low_pass 17.5",
    tau_threshold=0.95,
    pass_through="clean",
    objective="towards",
    steps=3,
    step_size=2 / 255,
    eps=6 / 255,
    momentum=0.9,
    views=("identity", "crop 0.9 top-left", "crop 0.9 centre", "crop 0.8 centre"),
    view_weights="agreement",
)


def test_the_published_stages():
    gate, counterattack, answer = stages(PUBLISHED)
    for words in (
        "Noise of at most 4/255 is added",
        "Drift is how far that moves the embedding",
        "Pictures whose drift is below 0.0236 are countered.",
        "The others are answered with noise.",
    ):
        assert words in gate
    assert "moved in 2 steps of 1/255. Its embedding goes away from where it was." in counterattack
    assert counterattack.endswith("within 4/255 of the picture that came.")
    assert "copy" not in gate + counterattack
    assert answer == "The moved picture is classified as CLIP does it."


def test_all_that_was_chosen_otherwise():
    gate, counterattack, answer = stages(OTHER)
    for words in (
        "the picture without what is finer than 17.5 cycles a side",
        "Agreement is the cosine of the picture's embedding and the copy's.",
        "Pictures whose agreement is below 0.95 are countered.",
        "The others are answered as they came.",
    ):
        assert words in gate
    assert (
        "in 3 steps of 2/255, with momentum 0.9. Its embedding goes towards the copy's and" in counterattack
    )
    assert "within 6/255" in counterattack
    assert "The copy is" not in counterattack  # the gate has said so
    assert "from 4 views of the moved picture: " in answer
    assert (
        "the picture as it is; 90 % of each side, enlarged, at the top-left, centre; 80 % of each side"
        in answer
    )
    assert answer.endswith("Views that agree with the others count more.")


def test_a_goal_is_named_where_the_gate_makes_no_copy():
    other = dataclasses.replace(PUBLISHED, objective="towards", transform="gaussian 1.5")
    assert "The copy is the picture under a Gaussian blur of 1.5 px." in stages(other).counterattack


def test_both_pictures_of_the_gate_and_transforms_in_a_row():
    soft = [f"gaussian 1 then crop 0.9 {place}" for place in ("top-left", "bottom-right")]
    gate, counterattack, answer = stages(
        CounterattackConfig(
            gate="agreement", transform=soft[0], pass_through="both", steps=0, views=("mirror", *soft)
        )
    )
    copy = "the picture under a Gaussian blur of 1 px, then 90 % of each side, enlarged, at the top-left"
    assert f"A copy is made: {copy}. " in gate
    assert gate.endswith("The others are answered by the mean of both embeddings.")
    assert counterattack == "There is none. Countered pictures stay as they came."
    assert f"3 views of the picture: the picture mirrored; {copy}, bottom-right. " in answer


def test_without_a_gate_every_picture_has_one_answer():
    gate, counterattack, answer = stages(CounterattackConfig.recommended())
    assert gate == "There is none: nothing is measured, and every picture is answered by its views."
    assert counterattack == "There is none, as no picture is held back."
    assert answer.startswith(
        "The answer comes from 2 views of the picture: the picture under a Gaussian blur"
    )
    countering = CounterattackConfig(gate="none", tau_threshold=1.0)
    assert stages(countering).gate.endswith("every picture is countered.")
    assert "moved in 2 steps" in stages(countering).counterattack


def test_without_steps_nothing_moves():
    _, counterattack, answer = stages(CounterattackConfig(steps=0, views=("mirror",), pass_through="clean"))
    assert counterattack == "There is none. Countered pictures stay as they came."
    assert answer.startswith("The answer comes from 1 view of the picture: the picture mirrored. ")


@pytest.mark.parametrize("config", [PUBLISHED, OTHER], ids=["published", "other"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eps", 5 / 255),
        ("step_size", 0.5 / 255),
        ("steps", 1),
        ("tau_threshold", 0.5),
        ("momentum", 0.5),
        ("gate", "high_noise_drift"),
        ("views", ("mirror", "blur", "crop 0.5 centre")),
        ("norm", "l2"),
    ],
)
def test_every_setting_is_told(config, name, value):
    assert stages(dataclasses.replace(config, **{name: value})) != stages(config)


@pytest.mark.parametrize("gate", [gate for gate in GATES if gate != "none"])
def test_every_gate_is_told_by_the_name_of_its_measure(gate):
    told = stages(CounterattackConfig(gate=gate, gate_noise=17 / 255)).gate
    assert f"Pictures whose {GATES[gate].measures} is below" in told
    assert GATES[gate].measures.capitalize() + " is " in told
    assert ("17/255" in told) == (gate == "high_noise_drift")

from __future__ import annotations

import json

import pytest
from hand_made import SHA256, make_metadata

from clipfast import ArtifactError, CounterattackConfig
from clipfast.artifacts.metadata import LIMITS, SCHEMA, Metadata
from clipfast.artifacts.ports import ports
from clipfast.preprocess import Preprocess


def altered(path: str, value):
    """The metadata's JSON with one field, "a" or "a.b", set to another value, or without it for `...`."""
    values = json.loads(make_metadata().to_json())
    *outer, name = path.split(".")
    place = values[outer[0]] if outer else values
    if value is ...:
        del place[name]
    else:
        place[name] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"profile": "serving", "batch": 4, "pixels": "uint8"},
        {"profile": "serving", "static": True, "batch": 1, "precision": "fp16"},
        {"model_name": None, "pretrained": "openai", "calibrated": False, "calibration": None},
        {
            "drift_weights_sha256": "f" * 64,
            "config": CounterattackConfig(norm="l2", eps=3),
            "calibrated": False,
        },
        {
            "calibrated": False,
            "config": CounterattackConfig(momentum=0.9, gate="agreement", transform="low_pass 30"),
        },
        {"preprocess": Preprocess(size=(30, 40), resize_mode="longest", fill_color=127)},
        {"classnames": ("café", 'a "quoted" one')},
        {"outputs": ("embedding", "logits", "drift", "countered"), "width": 192},
    ],
)
def test_json_gives_equal_metadata_back(changes):
    metadata = make_metadata(**changes)
    assert Metadata.from_json(metadata.to_json()) == metadata


def test_json_reads_as_documented():
    values = json.loads(make_metadata().to_json())
    assert values["schema"] == SCHEMA == 5
    assert values["outputs"] == ["logits", "undefended_logits", "drift", "countered", "delta"]
    assert values["preprocess"] == {
        "size": [32, 32],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
        "color_order": "RGB",
        "range": [0, 1],
    }
    assert values["limits"] == LIMITS
    assert values["config"]["tau_threshold"] == 0.5
    assert values["batch"] is None


@pytest.mark.parametrize("without", [None, "steps"])
@pytest.mark.parametrize("schema", [1, 2, 3, 4])
def test_the_schemas_before_this_one_are_read(schema, without):
    values = json.loads(make_metadata().to_json())
    for name in ("outputs", "width") if schema < 4 else ():
        del values[name]
    since = ["gate_depth", "gate_tokens", "early_threshold"]
    since += ["gate_noise", "transform", "objective", "views", "view_weights"] if schema < 3 else []
    for name in (*since, *(["momentum", "gate"] if schema == 1 else []), *([without] if without else [])):
        del values["config"][name]
    if schema == 2:
        values["config"]["radius"] = 40.0
    older = json.dumps(values | {"schema": schema})
    if without:
        with pytest.raises(ArtifactError, match=r"metadata field 'config\.steps' is missing"):
            Metadata.from_json(older)
    else:
        assert Metadata.from_json(older) == make_metadata()


def test_ports_are_those_of_the_interface():
    metadata = make_metadata(profile="serving", batch=3, pixels="uint8")
    assert metadata.ports == ports(
        profile="serving", static=False, batch=3, pixels="uint8", image_size=(32, 32), classes=4
    )


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("schema", ..., "expected an integer as metadata field 'schema', got None"),
        ("schema", "1", "expected an integer as metadata field 'schema', got '1'"),
        ("schema", 6, "schema 6, .* reads up to 5: a newer clipfast is needed"),
        ("schema", 0, r"schema 0, .* reads \(1, 2, 3, 4, 5\)"),
        ("outputs", ..., "metadata field 'outputs' is missing"),
        ("outputs", [], "expected a list of one string or more as metadata field 'outputs', got \\[\\]"),
        (
            "outputs",
            ["logits"],
            "do not go together: expected .* among the outputs, got none of drift, countered",
        ),
        ("outputs", ["logits", "drift", "countered", "noise"], "outputs must be of .*, got 'noise'"),
        ("outputs", ["logits", "drift", "countered", "embedding"], "embedding needs its width, got none"),
        ("width", 0, "expected a positive integer or null as metadata field 'width', got 0"),
        ("schema", 1, "unknown metadata field 'config.early_threshold'"),
        (
            "profile",
            "laboratory",
            "expected 'serving' or 'lab' as metadata field 'profile', got 'laboratory'",
        ),
        ("profile", [], "metadata field 'profile', got \\[\\]"),
        ("static", 1, "expected true or false as metadata field 'static', got 1"),
        ("batch", 0, "expected a positive integer or null as metadata field 'batch', got 0"),
        ("batch", 10**400, "metadata field 'batch'"),
        ("batch", True, "metadata field 'batch', got True"),
        ("batch", 2.0, "metadata field 'batch', got 2.0"),
        ("pixels", "float16", "expected 'float32' or 'uint8' as metadata field 'pixels'"),
        ("model_name", 3, "expected a string or null as metadata field 'model_name', got 3"),
        ("pretrained", False, "metadata field 'pretrained', got False"),
        (
            "weights_sha256",
            None,
            "expected 64 hexadecimal digits as metadata field 'weights_sha256', got None",
        ),
        ("weights_sha256", SHA256[:-1] + "\n", "metadata field 'weights_sha256'"),
        ("drift_weights_sha256", "f" * 63, "expected 64 hexadecimal digits or null"),
        (
            "classnames",
            [],
            "expected a list of one string or more as metadata field 'classnames', got \\[\\]",
        ),
        ("classnames", ["red", "red\u200b"], "'red' and 'red.u200b', which look alike"),
        ("classnames", ["red", "\x1b]0;title\x07"], "without control characters, got '.x1b"),
        ("classnames", "red", "metadata field 'classnames', got 'red'"),
        ("templates", ["a {}.", 1], "metadata field 'templates'"),
        ("templates", ["a {:>99999999999}."], "expected a template with {} where the class name goes"),
        ("config", None, "expected an object as metadata field 'config', got None"),
        ("config.steps", ..., "metadata field 'config.steps' is missing"),
        ("config.momentum", ..., "metadata field 'config.momentum' is missing"),
        ("config.gate", "agreement", "'calibrated' is true, but 'config' is marked .* for other .*gate"),
        ("config.transform", "turn", "metadata field 'config': expected a transform of"),
        ("config.views", 3, "metadata field 'config': views must be a sequence"),
        ("config.step", 1, "unknown metadata field 'config.step'"),
        ("config.steps", -1, "metadata field 'config': steps must be an integer from 0 to 1000"),
        ("config.steps", 10**36, "metadata field 'config': steps must be an integer from 0 to 1000"),
        ("config.calibrated_for", None, "'calibrated' is true, but 'config' bears no mark of it"),
        ("config.beta", 10**400, "metadata field 'config'"),
        ("config.tau_threshold", 0.4, "'calibrated' is true, but 'config' is marked .* for other weights"),
        ("drift_weights_sha256", "f" * 64, "'calibrated' is true, but 'config' is marked"),
        ("calibrated", "yes", "expected true or false as metadata field 'calibrated', got 'yes'"),
        ("calibration", {"a": 10**400}, "expected an object of finite numbers or null"),
        ("calibration", {"a": "b"}, "expected an object of finite numbers or null"),
        ("calibration", {"a": float("nan")}, "expected an object of finite numbers or null"),
        ("preprocess", 3, "expected an object as metadata field 'preprocess', got 3"),
        (
            "preprocess.size",
            [32],
            "expected a list of two integers from 1 to 16384 .* 'preprocess.size', got \\[32\\]",
        ),
        ("preprocess.size", [32, 0], "metadata field 'preprocess.size'"),
        ("preprocess.size", [32, 2**14 + 1], "metadata field 'preprocess.size'"),
        ("preprocess.interpolation", "nearest", "metadata field 'preprocess': interpolation must be one of"),
        ("preprocess.resize_mode", [], "expected a string as metadata field 'preprocess.resize_mode'"),
        ("preprocess.fill_color", 256, "expected an integer from 0 to 255"),
        (
            "preprocess.color_order",
            "BGR",
            "expected 'RGB' as metadata field 'preprocess.color_order', got 'BGR'",
        ),
        ("preprocess.range", [0, 255], "expected \\[0, 1\\] as metadata field 'preprocess.range'"),
        ("preprocess.range", ..., "metadata field 'preprocess.range' is missing"),
        ("precision", "fp8", "expected 'fp32' or 'fp16' as metadata field 'precision', got 'fp8'"),
        ("versions", {"clipfast": "1"}, "expected an object of strings with 'clipfast' and 'torch'"),
        ("versions", {"clipfast": "1", "torch": 2}, "metadata field 'versions'"),
        ("limits", ..., "metadata field 'limits' is missing"),
        ("license", None, "expected a string as metadata field 'license', got None"),
        ("colour", 1, "unknown metadata field 'colour'"),
        ("static", True, "do not go together: .* batch 1, got any batch"),
    ],
)
def test_what_it_does_not_understand_is_named(path, value, named):
    with pytest.raises(ArtifactError, match=named):
        Metadata.from_json(altered(path, value))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no JSON"),
        ('{"schema": 1', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("1" * 5000, "no JSON"),
        ("[1]", r"no JSON object, but \[1\]"),
        ("{}", "'schema', got None"),
    ],
)
def test_no_json_is_named(text, named):
    with pytest.raises(ArtifactError, match=named):
        Metadata.from_json(text)


def test_a_mark_says_nothing_of_what_is_not_called_calibrated():
    config = CounterattackConfig().calibrated("f" * 64)
    metadata = make_metadata(config=config, calibrated=False)
    assert Metadata.from_json(metadata.to_json()) == metadata
    openai = {"model_name": "ViT-B-32-quickgelu", "pretrained": "openai"}
    unmarked = make_metadata(config=CounterattackConfig(), **openai)  # by the published figures
    assert Metadata.from_json(unmarked.to_json()) == unmarked
    with pytest.raises(ArtifactError, match="bears no mark of it"):
        Metadata.from_json(make_metadata(config=CounterattackConfig()).to_json())

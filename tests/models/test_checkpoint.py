from __future__ import annotations

import json
import pickle
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_clip
from safetensors.torch import save_file

from clipfast import InputError
from clipfast.models.checkpoint import load_clip, load_image_tower, read_checkpoint


class Payload:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("pickled code ran",))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_whole_clip(tmp_path, suffix, wrapped):
    source, target = make_tiny_clip(seed=1), make_tiny_clip(seed=2)
    path = tmp_path / f"clip{suffix}"
    state = {f"module.{name}" if wrapped else name: value for name, value in source.state_dict().items()}
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path)
    assert not same(source, target)
    load_clip(target, path)
    assert same(source, target)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"epoch": 2, "vision_encoder_state_dict": s},
        lambda s: s,
        lambda s: {"state_dict": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"model.visual.{k}": v for k, v in s.items()},
        lambda s: {k: v.half() for k, v in s.items()},
        lambda s: {"logit_scale": torch.zeros(()), **{f"visual.{k}": v for k, v in s.items()}},
    ],
    ids=["TeCoA", "plain", "state_dict", "module", "model.visual", "half", "whole CLIP"],
)
def test_image_towers_in_their_published_forms(tmp_path, wrap):
    source, target = make_tiny_clip(seed=1), make_tiny_clip(seed=2)
    torch.save(wrap(source.visual.state_dict()), tmp_path / "tower.pt")
    load_image_tower(target.visual, tmp_path / "tower.pt")
    for ours, theirs in zip(
        target.visual.state_dict().values(), source.visual.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert next(target.visual.parameters()).dtype == torch.float32


def test_keys_and_shapes_that_do_not_fit_are_named_and_nothing_is_loaded(tmp_path):
    target = make_tiny_clip(seed=2)
    before = {name: value.clone() for name, value in target.visual.state_dict().items()}
    state = make_tiny_clip(seed=1).visual.state_dict()
    del state["proj"]
    state["head.weight"] = torch.zeros(3)
    state["class_embedding"] = torch.zeros(7)
    torch.save(state, tmp_path / "tower.pt")
    with pytest.raises(InputError) as error:
        load_image_tower(target.visual, tmp_path / "tower.pt")
    for part in ("1 missing: proj", "1 foreign: head.weight", "class_embedding (expected (64,), got (7,))"):
        assert part in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in target.visual.state_dict().items())
    torch.save({"unrelated": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"missing: .* and \d+ more; 1 foreign: unrelated"):
        load_image_tower(target.visual, tmp_path / "other.pt")
    save_file({"unrelated": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="does not fit the model"):
        load_clip(target, tmp_path / "other.safetensors")


def test_pickled_code_is_refused(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Payload()}, path)
    with pytest.raises(InputError, match="refused, because it holds more than tensors"):
        read_checkpoint(path, make_tiny_clip())
    path.write_bytes(pickle.dumps(Payload(), protocol=2))
    with pytest.raises(InputError, match="refused"):
        load_clip(make_tiny_clip(), path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_broken_and_missing_files_are_named(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(InputError, match="no such checkpoint"):
        read_checkpoint(path, make_tiny_clip())
    for content in (b"", b"not weights at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"weights{suffix}"):
            read_checkpoint(path, make_tiny_clip())
    whole = tmp_path / f"whole{suffix}"
    state = make_tiny_clip().state_dict()
    save_file(state, whole) if suffix == ".safetensors" else torch.save(state, whole)
    path.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(InputError, match=f"weights{suffix}"):
        read_checkpoint(path, make_tiny_clip())


def test_foreign_suffix_and_content(tmp_path):
    with pytest.raises(InputError, match="ending in one of"):
        read_checkpoint(tmp_path / "weights.npz", make_tiny_clip())
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="expected a dict of tensors, got list"):
        read_checkpoint(tmp_path / "list.pt", make_tiny_clip())


def test_config_beside_the_file_decides_about_quick_gelu(tmp_path):
    model = make_tiny_clip()
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    with pytest.raises(
        InputError, match=r"trained with QuickGELU.*built with GELU; add the ending '-quickgelu'"
    ):
        load_clip(model, tmp_path / "open_clip_model.safetensors")
    for broken in ("{", "[]", "{}"):
        config.write_text(broken)
        with pytest.raises(InputError, match="expected open_clip's JSON with a model_cfg"):
            load_clip(model, tmp_path / "open_clip_model.safetensors")
    config.write_text(json.dumps({"model_cfg": {}}))
    load_clip(model, tmp_path / "open_clip_model.safetensors")


def test_empty_weights_and_other_resolutions_are_named(tmp_path):
    model = make_tiny_clip()
    for empty in ({}, {"state_dict": {}}):
        torch.save(empty, tmp_path / "empty.pt")
        with pytest.raises(InputError, match="empty state dict"):
            load_clip(model, tmp_path / "empty.pt")
    state = model.state_dict()
    state["visual.positional_embedding"] = torch.zeros(50, 64)  # open_clip would resize it
    torch.save(state, tmp_path / "larger.pt")
    with pytest.raises(InputError, match=r"visual.positional_embedding: expected \(17, 64\), got \(50, 64\)"):
        load_clip(model, tmp_path / "larger.pt")


def repacked(path: Path) -> Path:
    """The same file with its parts compressed."""
    packed = path.with_name("packed.pt")
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for info in stored.infolist():
            archive.writestr(info.filename, stored.read(info))
    return packed


def test_what_inflates_is_refused(tmp_path):
    state = make_tiny_clip().visual.state_dict()
    torch.save({**state, "zeros": torch.zeros(10**6)}, tmp_path / "a.pt")
    packed = repacked(tmp_path / "a.pt")
    assert packed.stat().st_size < (tmp_path / "a.pt").stat().st_size / 4
    with pytest.raises(InputError, match=r"expected a file that torch wrote, got '.*' in it compressed"):
        load_image_tower(make_tiny_clip().visual, packed)


def test_files_far_larger_than_the_model_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("it was read"))
    path = tmp_path / "large.pt"
    with path.open("wb") as file:
        file.truncate(2**27)  # a hole
    with pytest.raises(InputError, match=r"expected weights of some [\d,]+ bytes, got a file of 134,217,728"):
        load_image_tower(make_tiny_clip().visual, path)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (lambda: {3: torch.zeros(2)}, "expected names of tensors, got 3"),
        (lambda: {"proj": torch.zeros(2, 2).to_sparse()}, "got 'proj' as torch.float32, torch.sparse_coo"),
        (lambda: {"proj": torch.zeros(2, dtype=torch.complex64)}, "got 'proj' as torch.complex64"),
        (lambda: {"proj": torch.zeros(2, device="meta")}, "expected plain tensors, got 'proj'"),
        (
            lambda: {"proj": torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)},
            "got 'proj' as torch.qint8",
        ),
    ],
    ids=["integer key", "sparse", "complex", "meta", "quantised"],
)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_odd_tensors_are_named(tmp_path, changed, named, nested):
    state = {**make_tiny_clip().visual.state_dict(), **changed()}
    torch.save({"state_dict": state} if nested else state, tmp_path / "odd.pt")
    for load in (
        lambda path: load_image_tower(make_tiny_clip().visual, path),
        partial(load_clip, make_tiny_clip()),
    ):
        with pytest.raises(InputError, match=named):
            load(tmp_path / "odd.pt")


def test_a_pickle_that_calls_with_too_little_is_no_checkpoint(tmp_path):
    """Of what torch lets a file call: it is not only of the wrong type that the arguments may be."""
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as stored, zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        for info in stored.infolist():
            data = stored.read(info)
            if info.filename.endswith("data.pkl"):
                data = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R."
            archive.writestr(info.filename, data)
    with pytest.raises(InputError, match=r"b\.pt: not a readable checkpoint: .*missing"):
        read_checkpoint(tmp_path / "b.pt", make_tiny_clip())

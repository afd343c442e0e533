"""Trains the bundled CLIP from scratch on drawn pictures; resumable."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from rich.progress import Progress
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipfast.files import write_text, written_aside
from clipfast.models.shapes import CLASSNAMES, COLOURS, SHAPES, UNSEEN_PAIRS, draw
from clipfast.models.tokenizer import WordTokenizer
from clipfast.models.tower import ImageTower

from . import recipe
from .state import load_state, save_state

SEEN = [
    (shape, colour)
    for shape in range(len(SHAPES))
    for colour in range(len(COLOURS))
    if (shape, colour) not in UNSEEN_PAIRS
]


def new_model() -> nn.Module:
    """The model with its random start, and its preprocessing attached."""
    torch.manual_seed(recipe.SEED_TRAIN)
    model = open_clip.CLIP(**recipe.MODEL_CFG)
    preprocess = {
        "size": recipe.IMAGE_SIZE,
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
    }
    open_clip.model.set_model_preprocess_cfg(model, preprocess)
    return model


def embeddings(model: nn.Module, pixels: np.ndarray, device: torch.device) -> Tensor:
    """Image embeddings [N, D] of uint8 pixels [N, 3, H, W], as the defence computes them."""
    return ImageTower(model)(torch.from_numpy(pixels).to(device).float() / 255)


def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the image tower's blocks, AdamW for the rest."""
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if name.startswith("visual.transformer") and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in named.values() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=recipe.MUON_LR, weight_decay=recipe.WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=recipe.ADAMW_LR, weight_decay=recipe.WEIGHT_DECAY),
    ]


def loss_of(model: nn.Module, tokenizer: WordTokenizer, step: int, device: torch.device) -> Tensor:
    """Image-to-text cross-entropy against the complete set of captions: of the 108 seen pairs, of the shapes
    alone and of the colours alone, each in a random template."""
    rng = np.random.default_rng((recipe.SEED_TRAIN, step))
    pictures = draw(
        recipe.BATCH,
        seed=(recipe.SEED_TRAIN, step),
        kinds=recipe.TRAINING_KINDS,
        unseen_pairs=False,
        size=recipe.IMAGE_SIZE,
    )
    names = [f"{list(COLOURS)[colour]} {SHAPES[shape]}" for shape, colour in SEEN]
    names += [*SHAPES, *(f"{colour} shape" for colour in COLOURS)]
    templates = rng.choice(recipe.TRAINING_TEMPLATES, len(names))
    tokens = tokenizer([template.format(name) for template, name in zip(templates, names, strict=True)])
    with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        texts = model.encode_text(tokens.to(device)).float()
        images = embeddings(model, pictures.pixels, device).float()
    similarity = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    logits = model.logit_scale.exp().clamp(max=100) * similarity
    pair, shape, colour = logits.split([len(SEEN), len(SHAPES), len(COLOURS)], dim=1)
    index = {pair: i for i, pair in enumerate(SEEN)}
    pairs = zip(pictures.shapes.tolist(), pictures.colours.tolist(), strict=True)
    pair_labels = torch.tensor([index[pair] for pair in pairs], device=device)
    shapes, colours = (torch.from_numpy(labels).to(device) for labels in (pictures.shapes, pictures.colours))
    return (
        F.cross_entropy(pair, pair_labels)
        + recipe.SHAPE_LOSS * F.cross_entropy(shape, shapes)
        + recipe.COLOUR_LOSS * F.cross_entropy(colour, colours)
    )


@torch.no_grad()
def accuracy(model: nn.Module, tokenizer: WordTokenizer, device: torch.device) -> float:
    """Zero-shot accuracy on fresh pictures, for the progress display only."""
    pictures = draw(512, seed=recipe.SEED_PROGRESS, kinds=recipe.TRAINING_KINDS, size=recipe.IMAGE_SIZE)
    tokens = tokenizer([recipe.TRAINING_TEMPLATES[0].format(name) for name in CLASSNAMES])
    texts = model.encode_text(tokens.to(device), normalize=True)
    images = F.normalize(embeddings(model, pictures.pixels, device), dim=1)
    return ((images @ texts.T).argmax(1).cpu().numpy() == pictures.labels).mean().item()


def train(run: Path, out: Path, device: torch.device) -> None:
    """Trains to recipe.TRAIN_STEPS, keeping run/train.pt, and writes the model as an open_clip folder."""
    model = new_model().to(device)
    tokenizer = WordTokenizer(recipe.WORDS, context_length=recipe.MODEL_CFG["text_cfg"]["context_length"])
    optims = optimizers(model)
    rates = [group["lr"] for optimizer in optims for group in optimizer.param_groups]
    state_file, first = run / "train.pt", 0
    if state := load_state(state_file, device):
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optims, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    with Progress(*Progress.get_default_columns(), "{task.fields[note]}") as progress:
        task = progress.add_task("training", total=recipe.TRAIN_STEPS, completed=first, note="")
        for step in range(first, recipe.TRAIN_STEPS):
            factor = (
                min(1, (step + 1) / recipe.WARMUP) * 0.5 * (1 + math.cos(math.pi * step / recipe.TRAIN_STEPS))
            )
            groups = [group for optimizer in optims for group in optimizer.param_groups]
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * factor
            loss = loss_of(model, tokenizer, step, device)
            for optimizer in optims:
                optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optims:
                optimizer.step()
            done = step + 1
            progress.advance(task)
            if done % 250 == 0 or done == recipe.TRAIN_STEPS:
                note = f"step {done} loss {loss.item():.3f} accuracy {accuracy(model, tokenizer, device):.3f}"
                progress.update(task, note=note)
                progress.log(note)
                state = {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in optims],
                    "step": done,
                }
                save_state(state_file, state)
    pack(model, out)
    state_file.unlink()


def pack(model: nn.Module, out: Path) -> None:
    """Writes the folder that open_clip reads: config, labels and float16 weights."""
    config = {"model_cfg": recipe.MODEL_CFG, "preprocess_cfg": model.visual.preprocess_cfg}
    labels = {
        "classnames": CLASSNAMES,
        "words": recipe.WORDS,
        "context_length": recipe.MODEL_CFG["text_cfg"]["context_length"],
    }
    for name, content in (("open_clip_config.json", config), ("labels.json", labels)):
        write_text(out / name, json.dumps(content, indent=2) + "\n")
    weights = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    with written_aside(out / "open_clip_model.safetensors") as file:
        file.write(save(weights))

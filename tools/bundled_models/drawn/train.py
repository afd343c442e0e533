"""Trains the bundled CLIP of drawn shapes from scratch; resumable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipfast.models.shapes import CLASSNAMES, COLOURS, SHAPES, UNSEEN_PAIRS, draw
from clipfast.models.tokenizer import WordTokenizer
from clipfast.models.tower import ImageTower

from ..optimisers import Optimisers, cosine
from ..packing import new_model, pack
from ..state import load_state, save_state
from . import recipe

__all__ = ["train"]

SEEN = [
    (shape, colour)
    for shape in range(len(SHAPES))
    for colour in range(len(COLOURS))
    if (shape, colour) not in UNSEEN_PAIRS
]
_KEPT_EVERY = 250  # steps


def embeddings(model: nn.Module, pixels: np.ndarray, device: torch.device) -> Tensor:
    """Image embeddings [N, D] of uint8 pixels [N, 3, H, W], as the defence computes them."""
    return ImageTower(model)(torch.from_numpy(pixels).to(device).float() / 255)


def loss_of(model: nn.Module, tokenizer: WordTokenizer, step: int, device: torch.device) -> Tensor:
    """Computes the image-to-text cross-entropy against all captions.

    They are of the 108 seen pairs, of the shapes alone and of the colours alone, each in a random template.
    """
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


def train(state_file: Path, out: Path, device: torch.device) -> None:
    """Trains to recipe.TRAIN_STEPS, keeping the state file, and writes the model as an open_clip folder."""
    preprocess = {
        "size": recipe.IMAGE_SIZE,
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
    }
    model = new_model(recipe.MODEL_CFG, preprocess, seed=recipe.SEED_TRAIN).to(device)
    tokenizer = WordTokenizer(recipe.WORDS, context_length=recipe.MODEL_CFG["text_cfg"]["context_length"])
    optimisers = Optimisers(
        model, muon_lr=recipe.MUON_LR, adamw_lr=recipe.ADAMW_LR, weight_decay=recipe.WEIGHT_DECAY
    )
    first = 0
    if state := load_state(state_file, device):
        model.load_state_dict(state["model"])
        optimisers.load_state_dict(state["optimizers"])
        first = state["step"]
    with Progress(*Progress.get_default_columns(), "{task.fields[note]}") as progress:
        task = progress.add_task("training", total=recipe.TRAIN_STEPS, completed=first, note="")
        for step in range(first, recipe.TRAIN_STEPS):
            loss = loss_of(model, tokenizer, step, device)
            optimisers.step(loss, cosine(step, recipe.TRAIN_STEPS, warmup=recipe.WARMUP))
            done = step + 1
            progress.advance(task)
            if done % _KEPT_EVERY == 0 or done == recipe.TRAIN_STEPS:
                note = f"step {done} loss {loss.item():.3f} accuracy {accuracy(model, tokenizer, device):.3f}"
                progress.update(task, note=note)
                progress.log(note)
                state = {
                    "model": model.state_dict(),
                    "optimizers": optimisers.state_dict(),
                    "step": done,
                }
                save_state(state_file, state)
    pack(model, out, model_cfg=recipe.MODEL_CFG, classnames=CLASSNAMES, tokenizer=tokenizer)
    state_file.unlink()

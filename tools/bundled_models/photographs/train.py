"""Trains the bundled CLIP of photographs from scratch, on the teacher's answers; resumable."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipfast.models.tokenizer import WordTokenizer
from clipfast.models.tower import ImageTower

from ..optimisers import Optimisers, cosine
from ..packing import new_model, pack
from ..state import load_state, save_state
from . import recipe
from .captions import captions, membership
from .pictures import Pictures, epoch_order, varied
from .teacher import Teacher, load_teacher

__all__ = ["train"]


def train(
    state_file: Path,
    teacher_file: Path,
    out: Path,
    pictures: Pictures,
    held_out: Pictures,
    device: torch.device,
    seed: int,
) -> None:
    """Trains for recipe.EPOCHS, keeping the state each epoch, and writes the model as an open_clip folder.

    held_out: whose accuracy is shown; nothing is chosen by it.
    """
    preprocess = {
        "size": recipe.IMAGE_SIZE,
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
    }
    purpose = seed + recipe.SEED_TRAIN
    model = new_model(recipe.MODEL_CFG, preprocess, seed=purpose).to(device)
    tokenizer = WordTokenizer(recipe.WORDS, context_length=recipe.MODEL_CFG["text_cfg"]["context_length"])
    optimisers = Optimisers(
        model, muon_lr=recipe.MUON_LR, adamw_lr=recipe.ADAMW_LR, weight_decay=recipe.WEIGHT_DECAY
    )
    each = len(pictures.labels) // recipe.BATCH
    steps, first = recipe.EPOCHS * each, 0
    if state := load_state(state_file, device):
        model.load_state_dict(state["model"])
        optimisers.load_state_dict(state["optimizers"])
        first = state["epoch"]
    student = _Student(model, tokenizer, load_teacher(teacher_file, device), device)
    with Progress(*Progress.get_default_columns(), "{task.fields[note]}") as progress:
        task = progress.add_task("training", total=steps, completed=first * each, note="")
        for epoch in range(first, recipe.EPOCHS):
            model.train()
            student.drop_patches(epoch < recipe.DROPOUT_SHARE * recipe.EPOCHS)
            order = epoch_order(len(pictures.labels), (purpose, epoch))
            for i in range(each):
                step = epoch * each + i
                rows = order[i * recipe.BATCH : (i + 1) * recipe.BATCH]
                torch.manual_seed(purpose * 2**32 + step)  # of the patches that are dropped
                x = varied(pictures.pixels[rows], (purpose, step)).to(device)
                loss = student.loss(x, pictures.labels[rows].to(device), purpose, step)
                optimisers.step(loss, cosine(step, steps, warmup=recipe.WARMUP))
                progress.update(task, advance=1, note=f"loss {loss.item():.3f}")
            student.drop_patches(False)
            right = student.accuracy(held_out)
            progress.log(f"epoch {epoch + 1}: {right:.3f} right")
            state = {
                "model": model.state_dict(),
                "optimizers": optimisers.state_dict(),
                "epoch": epoch + 1,
            }
            save_state(state_file, state)
    pack(model, out, model_cfg=recipe.MODEL_CFG, classnames=recipe.CLASSNAMES, tokenizer=tokenizer)
    state_file.unlink()


class _Student:
    """The model in training, and what it is held against."""

    def __init__(
        self, model: nn.Module, tokenizer: WordTokenizer, teacher: Teacher, device: torch.device
    ) -> None:
        self._model, self._tokenizer, self._teacher, self._device = model, tokenizer, teacher, device
        self._tower = ImageTower(model)
        self._levels = [under.to(device) for under in membership()]

    def drop_patches(self, dropped: bool) -> None:
        """Whether the image tower sees a part of the patches only (FLIP; Li et al., CVPR 2023)."""
        self._model.visual.patch_dropout = (
            open_clip.transformer.PatchDropout(recipe.PATCH_DROPOUT) if dropped else nn.Identity()
        )

    def loss(self, x: Tensor, labels: Tensor, seed: int, step: int) -> Tensor:
        """Cross-entropy from image to text, against the teacher's probabilities and the labels.

        The words above the classes are held against the sums of their classes' probabilities; pictures of
        classes that a level names by no phrase that is trained on count there by the rest. x: float32
        [N, 3, S, S] in [0, 1]. labels: int64 [N].
        """
        wanted = F.one_hot(labels, len(recipe.CLASSNAMES)).float()
        if torch.rand(()).item() < recipe.MIXED_SHARE:
            share = torch.rand(len(x), 1, device=x.device)
            x = x.lerp(x.flip(0), share[:, :, None, None])
            wanted = wanted.lerp(wanted.flip(0), share)
        taught = (self._teacher(x) / recipe.TEACHER_TEMPERATURE).softmax(dim=1)
        target = taught.lerp(wanted, recipe.LABEL_LOSS)
        with torch.autocast(self._device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            texts = self._model.encode_text(self._tokens(captions(seed, step))).float()
            images = self._tower(x).float()
        similarity = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
        logits = self._model.logit_scale.exp().clamp(max=100) * similarity
        widths = [target.shape[1], *(under.shape[1] for under in self._levels)]
        named, *above = logits.split(widths, dim=1)
        loss = F.cross_entropy(named, target)
        for scores, under in zip(above, self._levels, strict=True):
            loss = loss + recipe.LEVEL_LOSS * F.cross_entropy(scores, target @ under)
        return loss

    @torch.no_grad()
    def accuracy(self, pictures: Pictures) -> float:
        """Zero-shot accuracy in the first template."""
        self._model.eval()
        prompts = [recipe.TRAINING_TEMPLATES[0].format(name) for name in recipe.CLASSNAMES]
        texts = self._model.encode_text(self._tokens(prompts), normalize=True)
        right = [
            (F.normalize(self._tower(pixels.to(self._device).float() / 255), dim=1) @ texts.T).argmax(1).cpu()
            == labels
            for pixels, labels in zip(pictures.pixels.split(250), pictures.labels.split(250), strict=True)
        ]
        return torch.cat(right).double().mean().item()

    def _tokens(self, texts: list[str]) -> Tensor:
        return self._tokenizer(texts).to(self._device)

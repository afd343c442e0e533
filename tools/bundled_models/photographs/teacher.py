"""The residual network whose answers the image tower learns: quick to train, and gone afterwards."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from clipfast.files import written_aside

from ..state import load_state, save_state
from . import recipe
from .pictures import Pictures, epoch_order, varied

__all__ = ["Teacher", "load_teacher", "train_teacher"]


class _Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()
    )


class Teacher(nn.Module):
    """Convolutions with two residual blocks, over pixels float32 [N, 3, S, S] in [0, 1]; logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third, fourth = recipe.TEACHER_WIDTHS
        self.layers = nn.Sequential(
            _convolution(3, first),
            _convolution(first, second),
            nn.MaxPool2d(2),
            _Residual(_convolution(second, second), _convolution(second, second)),
            _convolution(second, third),
            nn.MaxPool2d(2),
            _convolution(third, fourth),
            nn.MaxPool2d(2),
            _Residual(_convolution(fourth, fourth), _convolution(fourth, fourth)),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(fourth, len(recipe.CLASSNAMES), bias=False),
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Logits float32 [N, 10], computed in bfloat16."""
        centred = (2 * x - 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.layers(centred).float()


def load_teacher(file: Path, device: torch.device) -> Teacher:
    """What `train_teacher` wrote, in eval mode."""
    teacher = Teacher()
    teacher.load_state_dict(torch.load(file, weights_only=True))
    return teacher.to(device).eval().requires_grad_(False)


def train_teacher(
    state_file: Path, file: Path, train: Pictures, held_out: Pictures, device: torch.device, seed: int
) -> None:
    """SGD with Nesterov momentum 0.9, the rate rising and falling linearly; keeps the state each epoch."""
    torch.manual_seed(seed + recipe.SEED_TEACHER)
    teacher = Teacher().to(device)
    optimiser = torch.optim.SGD(
        teacher.parameters(),
        lr=recipe.TEACHER_LR,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.TEACHER_WEIGHT_DECAY,
    )
    each = len(train.labels) // recipe.TEACHER_BATCH
    steps, first = recipe.TEACHER_EPOCHS * each, 0
    if state := load_state(state_file, device):
        teacher.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimizer"])
        first = state["epoch"]
    with Progress(*Progress.get_default_columns(), "{task.fields[note]}") as progress:
        task = progress.add_task("training the teacher", total=steps, completed=first * each, note="")
        for epoch in range(first, recipe.TEACHER_EPOCHS):
            order = epoch_order(len(train.labels), (seed + recipe.SEED_TEACHER, epoch))
            for i in range(each):
                step = epoch * each + i
                rows = order[i * recipe.TEACHER_BATCH : (i + 1) * recipe.TEACHER_BATCH]
                for group in optimiser.param_groups:
                    group["lr"] = recipe.TEACHER_LR * _triangle(step / steps)
                x = varied(train.pixels[rows], (seed + recipe.SEED_TEACHER, step)).to(device)
                labels = train.labels[rows].to(device)
                loss = F.cross_entropy(teacher(x), labels)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                progress.advance(task)
            right = _accuracy(teacher.eval(), held_out, device)
            teacher.train()
            progress.log(f"teacher, epoch {epoch + 1}: {right:.3f} right")
            state = {
                "model": teacher.state_dict(),
                "optimizer": optimiser.state_dict(),
                "epoch": epoch + 1,
            }
            save_state(state_file, state)
    with written_aside(file) as whole:
        torch.save(teacher.state_dict(), whole)
    state_file.unlink()


def _triangle(done: float) -> float:
    rise = recipe.TEACHER_WARMUP
    return done / rise if done < rise else (1 - done) / (1 - rise)


@torch.no_grad()
def _accuracy(teacher: Teacher, pictures: Pictures, device: torch.device) -> float:
    batches = zip(pictures.pixels.split(500), pictures.labels.split(500), strict=True)
    right = [
        (teacher(pixels.to(device).float() / 255).argmax(1).cpu() == labels) for pixels, labels in batches
    ]
    return torch.cat(right).double().mean().item()

"""The twin: the image tower adversarially fine-tuned as TeCoA does (Mao et al., ICLR 2023, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor

from clipfast.attacks import pgd
from clipfast.models.bundled import load_bundled
from clipfast.models.class_weights import class_weights
from clipfast.models.tower import ImageTower

from .optimisers import cosine
from .packing import pack_twin
from .state import load_state, save_state

__all__ = ["Finetuning", "finetune"]

_KEPT_EVERY = 100  # steps


class Finetuning(NamedTuple):
    """steps: of AdamW, at the rate lr. eps, step_size, attack_steps: of PGD, in [0, 1] pixel units."""

    steps: int
    lr: float
    eps: float
    step_size: float
    attack_steps: int


def finetune(
    state_file: Path,
    out: Path,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    template: str,
    settings: Finetuning,
    device: torch.device,
) -> None:
    """Cross-entropy on PGD examples, text tower fixed; writes out/tecoa.pt, keeping the state file meanwhile.

    batch: pixels uint8 [N, 3, H, W] and labels int64 [N] of a step. template: that the class names stand in.
    """
    original = load_bundled(out, device)
    model = original.model
    weights = class_weights(model, original.tokenizer, original.classnames, (template,))
    scale = model.logit_scale.exp().detach()
    model.requires_grad_(False)
    model.visual.requires_grad_(True)
    tower = ImageTower(model)

    def logits(pixels: Tensor) -> Tensor:
        return scale * F.normalize(tower(pixels), dim=1) @ weights

    optimiser = torch.optim.AdamW(model.visual.parameters(), lr=settings.lr, weight_decay=0.0)
    first = 0
    if state := load_state(state_file, device):
        model.visual.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimizer"])
        first = state["step"]
    with Progress(*Progress.get_default_columns(), "{task.fields[note]}") as progress:
        task = progress.add_task("fine-tuning the twin", total=settings.steps, completed=first, note="")
        for step in range(first, settings.steps):
            for group in optimiser.param_groups:
                group["lr"] = settings.lr * cosine(step, settings.steps)
            drawn, labels = (tensor.to(device) for tensor in batch(step))
            with torch.autocast(device.type, torch.bfloat16):
                attacked = pgd(
                    lambda x: logits(x).float(),
                    drawn.float() / 255,
                    labels,
                    eps=settings.eps,
                    step_size=settings.step_size,
                    steps=settings.attack_steps,
                    generator=torch.Generator().manual_seed(step),
                )
                loss = F.cross_entropy(logits(attacked).float(), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            progress.advance(task)
            if (step + 1) % _KEPT_EVERY == 0:
                progress.log(f"step {step + 1} adversarial loss {loss.item():.3f}")
                state = {
                    "model": model.visual.state_dict(),
                    "optimizer": optimiser.state_dict(),
                    "step": step + 1,
                }
                save_state(state_file, state)
    pack_twin(model.visual, out / "tecoa.pt")
    state_file.unlink(missing_ok=True)

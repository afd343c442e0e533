"""The twin: the image tower adversarially fine-tuned as TeCoA does (Mao et al., ICLR 2023, section 3)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import Progress

from clipfast.attacks import pgd
from clipfast.files import written_aside
from clipfast.models.bundled import load_bundled
from clipfast.models.class_weights import class_weights
from clipfast.models.shapes import CLASSNAMES, draw
from clipfast.models.tower import ImageTower

from . import recipe
from .state import load_state, save_state


def finetune(run: Path, out: Path, device: torch.device) -> None:
    """Cross-entropy on PGD examples, text tower fixed; writes out/tecoa.pt, keeping run/finetune.pt."""
    original = load_bundled(device, folder=out)
    model = original.model
    weights = class_weights(model, original.tokenizer, CLASSNAMES, (recipe.TRAINING_TEMPLATES[0],))
    scale = model.logit_scale.exp().detach()
    model.requires_grad_(False)
    model.visual.requires_grad_(True)
    tower = ImageTower(model)

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        return scale * F.normalize(tower(pixels), dim=1) @ weights

    optimizer = torch.optim.AdamW(model.visual.parameters(), lr=recipe.FINETUNE_LR, weight_decay=0.0)
    state_file, first = run / "finetune.pt", 0
    if state := load_state(state_file, device):
        model.visual.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    with Progress(*Progress.get_default_columns(), "{task.fields[note]}") as progress:
        task = progress.add_task(
            "fine-tuning the twin", total=recipe.FINETUNE_STEPS, completed=first, note=""
        )
        for step in range(first, recipe.FINETUNE_STEPS):
            for group in optimizer.param_groups:
                group["lr"] = (
                    recipe.FINETUNE_LR * 0.5 * (1 + math.cos(math.pi * step / recipe.FINETUNE_STEPS))
                )
            pictures = draw(
                recipe.BATCH,
                seed=(recipe.SEED_FINETUNE, step),
                kinds=recipe.TRAINING_KINDS,
                unseen_pairs=False,
                size=recipe.IMAGE_SIZE,
            )
            pixels = torch.from_numpy(pictures.pixels).to(device).float() / 255
            labels = torch.from_numpy(pictures.labels).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                attacked = pgd(
                    lambda x: logits(x).float(),
                    pixels,
                    labels,
                    eps=recipe.FINETUNE_EPS,
                    step_size=recipe.FINETUNE_STEP_SIZE,
                    steps=recipe.FINETUNE_ATTACK_STEPS,
                    generator=torch.Generator().manual_seed(step),
                )
                loss = F.cross_entropy(logits(attacked).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress.advance(task)
            if (step + 1) % 100 == 0:
                progress.log(f"step {step + 1} adversarial loss {loss.item():.3f}")
                state = {
                    "model": model.visual.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                }
                save_state(state_file, state)
    tower_state = {name: value.detach().cpu().half() for name, value in model.visual.state_dict().items()}
    checkpoint = {"epoch": 1, "vision_encoder_state_dict": tower_state}
    with written_aside(out / "tecoa.pt") as file:
        torch.save(checkpoint, file)
    state_file.unlink(missing_ok=True)

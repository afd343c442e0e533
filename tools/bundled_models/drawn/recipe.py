"""Every choice that the bundled model depends on. PROTOCOL.md says why; change both together."""

from __future__ import annotations

from clipfast.models.shapes import COLOURS, SHAPES

from ..finetune import Finetuning

IMAGE_SIZE = 96

MODEL_CFG = {
    "embed_dim": 192,
    "vision_cfg": {
        "image_size": IMAGE_SIZE,
        "patch_size": 12,
        "width": 192,
        "layers": 4,
        "head_width": 64,
    },
    "text_cfg": {"context_length": 12, "vocab_size": 0, "width": 128, "heads": 4, "layers": 2},
}

TRAINING_TEMPLATES = (
    "This is a photo of a {}.",
    "a photo of a {}.",
    "a picture of a {}.",
    "a {}.",
    "a drawing of one {}.",
    "this {}.",
)
UNSEEN_TEMPLATE = "This is a drawing of one {}."

WORDS = tuple(
    sorted(
        {word for template in TRAINING_TEMPLATES for word in template.lower().strip(".").split()}.difference(
            {"{}"}
        )
        | set(SHAPES)
        | set(COLOURS)
        | {"shape"}
    )
)
MODEL_CFG["text_cfg"]["vocab_size"] = len(WORDS) + 2

# The grounds that training sees; "noise" is for evaluation only.
TRAINING_KINDS = {"plain": 0.45, "gradient": 0.40, "texture": 0.15}

# One random stream a purpose: pictures are drawn from (stream, index), so no two purposes share any.
SEED_TRAIN, SEED_FINETUNE, SEED_CALIBRATE, SEED_REPORT, SEED_PROGRESS = 1, 2, 3, 4, 5

TRAIN_STEPS = 4500
BATCH = 128
MUON_LR, ADAMW_LR, WEIGHT_DECAY, WARMUP = 1.5e-3, 1e-3, 0.02, 100
SHAPE_LOSS, COLOUR_LOSS = 0.5, 0.25

FINETUNING = Finetuning(steps=600, lr=2e-4, eps=2 / 255, step_size=1 / 255, attack_steps=2)

CALIBRATION_PICTURES, MOST_CLEAN_LOSS = 2000, 0.10
REPORT_PICTURES = 1200
REPORT_EPS = (1 / 255, 2 / 255, 4 / 255)
ADAPTIVE_EPS = 2 / 255

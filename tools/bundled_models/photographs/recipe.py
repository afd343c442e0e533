"""Every choice that the model of photographs depends on. PROTOCOL.md says why; change both together."""

from __future__ import annotations

from ..finetune import Finetuning

IMAGE_SIZE = 32

MODEL_CFG = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": IMAGE_SIZE,
        "patch_size": 4,
        "width": 192,
        "layers": 6,
        "head_width": 64,
        "mlp_ratio": 3.0,
    },
    "text_cfg": {"context_length": 12, "vocab_size": 0, "width": 64, "heads": 2, "layers": 2},
}

# As CIFAR-10 calls its classes, in its order, and other words for the same.
CLASSNAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SYNONYMS = {"airplane": ("plane",), "automobile": ("car",), "ship": ("boat",), "truck": ("lorry",)}

# Words above the classes: each level parts the classes that it names.
LEVELS: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "animal": ("bird", "cat", "deer", "dog", "frog", "horse"),
        "vehicle": ("airplane", "automobile", "ship", "truck"),
    },
    {
        "flying vehicle": ("airplane",),
        "road vehicle": ("automobile", "truck"),
        "water vehicle": ("ship",),
        "house animal": ("cat", "dog"),
        "farm animal": ("horse",),
        "wild animal": ("deer", "frog"),
        "flying animal": ("bird",),
    },
)
UNSEEN_WORD = "flying animal"  # both of its words are seen, never together

TRAINING_TEMPLATES = (
    "This is a photo of a {}.",
    "a photo of a {}.",
    "a picture of a {}.",
    "a {}.",
    "this {}.",
    "one {}.",
    "a small photo of a {}.",
    "a blurry photo of a {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "this is a {}.",
)
UNSEEN_TEMPLATE = "This is a small picture of one {}."

WORDS = tuple(
    sorted(
        {word for template in TRAINING_TEMPLATES for word in template.lower().strip(".").split()} - {"{}"}
        | set(CLASSNAMES)
        | {word for words in SYNONYMS.values() for word in words}
        | {word for level in LEVELS for phrase in level for word in phrase.split()}
    )
)
MODEL_CFG["text_cfg"]["vocab_size"] = len(WORDS) + 2

SEED_TEACHER, SEED_TRAIN, SEED_FINETUNE = 1, 2, 3
PADDING = 4  # pixels, mirrored, that random crops may reach into

# The residual network that teaches: one pass over the pictures is an epoch.
TEACHER_WIDTHS = (32, 64, 128, 256)
TEACHER_EPOCHS, TEACHER_BATCH = 12, 128
TEACHER_LR, TEACHER_WEIGHT_DECAY, TEACHER_WARMUP = 0.15, 5e-4, 0.1

# The first steps see half of the patches; a step costs half as much then.
EPOCHS, BATCH = 36, 256
PATCH_DROPOUT, DROPOUT_SHARE = 0.5, 0.7
MUON_LR, ADAMW_LR, WEIGHT_DECAY, WARMUP = 2e-3, 1e-3, 0.05, 400
TEACHER_TEMPERATURE = 1.0
LABEL_LOSS, LEVEL_LOSS = 0.2, 0.25
MIXED_SHARE = 0.5  # of the batches, mixed with themselves in another order

FINETUNING = Finetuning(steps=800, lr=2e-4, eps=2 / 255, step_size=1 / 255, attack_steps=2)
FINETUNE_BATCH = 256

# Of the test split, in the order that `clipfast eval` draws it: the first are reported, those after them are
# for searches.
REPORTED = 1000
CALIBRATION_AFTER, CALIBRATION_PICTURES, MOST_CLEAN_LOSS = 5000, 2000, 0.10

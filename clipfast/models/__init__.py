"""Models: open_clip loading, fine-tuned checkpoints, and the tiny CLIP that comes with clipfast."""

"""Models: open_clip loading, fine-tuned checkpoints, and the tiny CLIPs that come with clipfast."""

"""The experiment of `clipfast demo`: CLIP classifies pictures, is attacked, and is defended."""

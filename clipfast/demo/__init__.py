"""What `clipfast demo` shows: CLIP classifies pictures, falls to an attack, and recovers."""

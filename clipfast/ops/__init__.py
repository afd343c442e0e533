"""The fused operators, registered with torch under the namespace `clipfast`."""

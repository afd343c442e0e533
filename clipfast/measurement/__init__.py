"""How figures are taken: interleaved times, and intervals."""

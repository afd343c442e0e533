"""How figures are taken: interleaved times, intervals."""

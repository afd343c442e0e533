"""Speed and memory against the reference: interleaved, checked, in ratios."""

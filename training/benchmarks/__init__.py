"""Proof: comparisons, ablations and what is faster than what."""

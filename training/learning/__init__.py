"""Gradients: recipes, stages, batches, losses, checkpoints."""

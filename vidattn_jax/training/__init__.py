"""Training: state, optimiser, losses, sharding, checkpoints, evaluation."""

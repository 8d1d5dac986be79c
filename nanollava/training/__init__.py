"""Training: the loop, sharding, batches, resumable checkpoints, flags, metrics and the plan."""

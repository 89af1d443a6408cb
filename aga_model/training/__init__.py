"""Training: arguments, the trainer, optimisers and the run that ties them together."""

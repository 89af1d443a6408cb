"""What the model's work costs: steps of training, encoding, ranking, exported files, and the installation."""

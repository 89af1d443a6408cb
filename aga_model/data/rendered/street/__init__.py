"""People drawn in street clothes, whom the vocabulary of the first world does not describe."""

"""Benchmarks on disk and rendered data, as `datasets.Dataset`, and what turns them into training batches."""

# Tag of the card of a model that was trained on rendered drawings only.
RENDERED_TAG = "rendered-data"

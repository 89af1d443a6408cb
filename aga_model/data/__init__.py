"""Benchmarks on disk and rendered data, as `datasets.Dataset`, and what turns them into training batches."""

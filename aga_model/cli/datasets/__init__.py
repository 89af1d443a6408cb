"""Commands that draw and examine data sets."""

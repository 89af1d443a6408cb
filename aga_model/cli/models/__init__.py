"""Commands that make, measure and publish models."""

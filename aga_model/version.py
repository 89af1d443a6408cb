"""The package version, read by setup.cfg and written into run folders."""

__version__ = "0.1.0"  # of the package

"""The commands of `aga`, one file each."""

"""Commands that fill, search and show galleries."""

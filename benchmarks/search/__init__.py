"""How a gallery answers: what it finds beside exact search and beside the truth, how fast, and how it changes."""

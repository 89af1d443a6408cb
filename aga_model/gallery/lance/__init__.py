"""Galleries in a folder, by LanceDB."""

"""Runtimes that execute models, and what converts a network into their files."""

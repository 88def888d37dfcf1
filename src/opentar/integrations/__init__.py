"""Thin adapters for other programs. None of these programs is a dependency: each is imported when it is there."""

"""Nano, the small model that ships with OpenTar: its world, stages, recipe, judge and benchmarks. A guest here."""

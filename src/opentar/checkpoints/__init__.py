"""Models on the disk: the format of a model folder, finding one, its parts loaded, and random ones of any size.

`convert/` reads the authors' published files and writes other formats, `hub/` fetches models by name.
"""

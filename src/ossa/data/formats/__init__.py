"""Readers of annotation files, one module a format, each with `read(description, split, log=...)`.

`common` holds what they share: the columns that become a DatasetIndex, the rules for boxes, and
the finding of images.
"""

"""Readers of annotation files, one module a format, each with `read(description, split, ...)`."""

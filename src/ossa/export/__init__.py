"""Detectors as files for other runtimes, and the runtimes that run them here."""

"""Figures, drawing and HTML pages from plain tables."""

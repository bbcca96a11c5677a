"""Several models under the same conditions, side by side."""

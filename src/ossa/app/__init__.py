"""A page to try detectors side by side: `ossa app`."""

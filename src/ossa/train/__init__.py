"""The training of a detector: its loop, what decides it, and what it leaves behind."""

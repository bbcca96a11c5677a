"""What a detector costs in time."""

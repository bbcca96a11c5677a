"""What a detector costs: in parameters, FLOPs, memory and time."""

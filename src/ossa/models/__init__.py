"""The detector and its parts: backbones, neck, head, assignment, losses, decoding, weights."""

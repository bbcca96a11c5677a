"""From files to batches: formats, index, decoding, augmentation, loader, checks."""

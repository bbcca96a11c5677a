"""From an index to the batches that the network sees: order, augmentation, workers."""

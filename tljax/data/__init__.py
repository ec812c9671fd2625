"""Images from where they lie to the device: sources, batches, augmentation."""

"""Functions of batches of pixels that augmentation is made of."""

"""Statistics beyond BatchNorm's running ones: which layers, which numbers, measured on training images once; the density term."""

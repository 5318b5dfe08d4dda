"""The network on a device: numpy in, numpy out."""

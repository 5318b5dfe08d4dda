"""The network. Knows nothing about HTTP; importing this package imports nothing else."""

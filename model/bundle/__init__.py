"""A trained network on disk, and the check that it still computes the same."""

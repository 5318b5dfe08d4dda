"""A trained network on disk, and the self-test that it still computes the same."""

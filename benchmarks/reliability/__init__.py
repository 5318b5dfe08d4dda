"""Measurements of the reliability promises under load: `make soak`."""

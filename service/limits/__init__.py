"""Bounds on bytes and time."""

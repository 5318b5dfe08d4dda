"""Limits on bytes and time."""

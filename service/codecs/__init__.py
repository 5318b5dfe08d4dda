"""Conversion between bytes and arrays, with one module for each format."""

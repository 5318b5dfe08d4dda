"""Rendered photographs of machined plates, with and without defects: images to try commands on."""

"""The network, its bundles and its training. Nothing in here knows about HTTP.

Importing `model` itself loads none of its modules.
"""

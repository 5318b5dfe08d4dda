"""Processes, sockets and connections."""

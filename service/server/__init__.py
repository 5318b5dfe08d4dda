"""Worker processes, listening sockets and connections."""

"""The servers that the service is compared with: one file each, all with the same network inside.

A file runs as `python -m benchmarks.peers.NAME --port N` in the environment of its own that
`benchmarks.servers` makes; what it imports of a peer is not installed anywhere else.
"""

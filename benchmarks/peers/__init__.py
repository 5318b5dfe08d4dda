"""The servers that the service is compared with: one file each, all with the same network inside.

Each runs as `python -m benchmarks.peers.NAME --port N`. `benchmarks.servers` makes an environment
for each of the other frameworks, which are installed nowhere else.
"""

"""The mesh room: three implementations of `ports.Mesh`, and the only place that imports libp2p.

libp2p.py   py-libp2p over TCP + Noise + yamux, trio as a guest of the asyncio loop
memory.py   in one process, for tests and the simulator; imports no libp2p
"""

"""The mesh over Go libp2p: hivemind's p2pd carries streams, hivemind's DHT tells who is there.

In the node process, which imports no hivemind:
backend.py     `ports.Mesh`
links.py       gossip and signs of life: one stream with each peer
blobs.py       the blob protocol of ../blob.py, in asyncio
sidecar.py     the process beside the node: started, watched, started again
streams.py     a stream of p2pd: a socket whose bytes are counted

In the process beside it, which imports no libp2p (the two cannot be imported in one, trap 1):
child.py       its main function
p2pd.py        the Go program: started, watched, started again; what it is asked
membership.py  who takes part in the run, in hivemind's DHT

Between them:
channel.py     bounded messages, and open streams as file descriptors
"""

"""`demo-node top`: one node, and the swarm as it sees it, on one screen."""

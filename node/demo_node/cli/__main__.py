"""`python -m demo_node.cli`: how the swarm starts its nodes, whatever is on the PATH."""

from demo_node.cli.root import main

main()

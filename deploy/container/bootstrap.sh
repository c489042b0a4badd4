#!/bin/sh
# Open a run, unless there is one, start its first node, and write down whom others join.
#
#   demo-node-bootstrap [options of demo-node start]
#
# PRESET, ROUND_SECONDS  for demo-node init, where a run is opened
# NAME                   the name by which others find this container
# INVITE                 the file that tells them
# ANNOUNCE               an address by which other hosts reach this node, if any
set -eu
umask 077

[ -e "$DEMO_NODE_DATADIR/manifest.json" ] ||
    demo-node init --preset "${PRESET:-tiny}" --round-seconds "${ROUND_SECONDS:-10}"
peer=$(demo-node key show | awk '/^peer id/ { print $NF }')
address="/dns4/${NAME:-bootstrap}/tcp/4001"
(umask 022 && echo "$address/p2p/$peer" >"$INVITE")
[ -z "${ANNOUNCE:-}" ] || set -- --announce "$ANNOUNCE" "$@"
exec demo-node start --listen /ip4/0.0.0.0/tcp/4001 --announce "$address" "$@"

#!/bin/sh
# Start the node of the first folder /replicas/1, /replicas/2, ... that no other container has in
# use: a replica goes on as the node that it was, whatever name and number compose gives it.
#
#   demo-node-replica [options of demo-node start]
#
# PEERS   whom to join, as their own start lines show it; several with spaces
# INVITE  a file that says so, where PEERS is empty; it is waited for
set -eu
umask 077

number=1
while :; do
    exec 9>>"/replicas/$number.lock"
    if flock --nonblock 9; then break; fi # held as long as this process, whatever it becomes
    number=$((number + 1))
done
mkdir -p "/replicas/$number"
ln -sfn "/replicas/$number" "$DEMO_NODE_DATADIR" # where `docker exec ... demo-node status` looks

if [ -z "${PEERS:-}" ] && [ -n "${INVITE:-}" ]; then
    until [ -s "$INVITE" ]; do sleep 1; done
    PEERS=$(cat "$INVITE")
fi
for peer in ${PEERS:-}; do
    set -- "$@" --peers "$peer"
done
exec demo-node start --listen /ip4/0.0.0.0/tcp/4001 "$@"

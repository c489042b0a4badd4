#!/usr/bin/env bash
# A node as a service of this machine (Debian 12, Ubuntu and the like), from a clone, as root:
#
#   sudo PEERS=<address, as the other node's start line shows it> bash deploy/install.sh
#
# puts demo-node into /opt/demo-node, its unit into systemd, and PEERS into /etc/demo-node, where all
# its options stand. Its data will be in /var/lib/demo-node. Run it again to bring in a newer release:
# key, data and options stay. PYTHON3 and TORCH are those of deploy/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

into=/opt/demo-node
options=/etc/demo-node
units=/etc/systemd/system
fail() { echo "install.sh: $1" >&2; exit 1; }

[ $# = 0 ] || fail "takes no arguments; see its first lines"
[ "$(id -u)" = 0 ] || fail "must be run as root: sudo bash deploy/install.sh"
mkdir -p "$into" "$units"
INTO=$into bash deploy/setup.sh
install -m 0644 deploy/systemd/demo-node.service "$units/"
if [ ! -e "$options" ]; then
    (umask 077 && echo "DEMO_NODE_PEERS=${PEERS:-}" >"$options")
elif [ -n "${PEERS:-}" ]; then
    echo "install.sh: $options is there and stays as it is; PEERS was not written to it"
fi

if [ ! -d /run/systemd/system ]; then
    echo "install.sh: done; where systemd runs: systemctl enable --now demo-node"
    exit 0
fi
systemctl daemon-reload
if systemctl --quiet is-active demo-node; then
    systemctl restart demo-node
    echo "install.sh: done; the node has been started anew"
elif grep -q '^DEMO_NODE_PEERS=.' "$options"; then
    systemctl enable --now demo-node
    echo "install.sh: done; what it does: systemctl status demo-node"
else
    echo "install.sh: done; next: name a peer in $options, then systemctl enable --now demo-node"
fi

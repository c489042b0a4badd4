#!/usr/bin/env bash
# Programs that the last tiers of `make test` need and pip does not have: Prometheus, Alertmanager,
# npm; iproute2, nftables, ping; Docker, compose, debootstrap. Installs what is missing by name with
# apt, as root; starts nothing.
#
#   install-tools.sh           install what is missing
#   install-tools.sh --check   say what is missing; ends with 1 if anything is, silent if nothing
set -euo pipefail

# program:package
wanted="prometheus:prometheus promtool:prometheus prometheus-alertmanager:prometheus-alertmanager
    amtool:prometheus-alertmanager node:nodejs npm:npm
    docker:docker.io dockerd:docker.io docker-compose:docker-compose debootstrap:debootstrap
    nft:nftables ip:iproute2 ping:iputils-ping"

list_missing() {
    for pair in $wanted; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done
}
case "$*" in
    '' | --check) ;;
    *)
        echo "usage: install-tools.sh [--check]" >&2
        exit 2 ;;
esac
missing=$(list_missing | sort -u | tr '\n' ' ')
if [ -z "$missing" ]; then
    [ "$*" = --check ] || echo "nothing to install"
    exit 0
fi
was_missing=$missing

if [ "$*" = --check ]; then
    echo "not installed: $missing"
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "not installed, and no apt-get to do it with: $missing" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "not installed: $missing; run: sudo bash deploy/install-tools.sh" >&2
    exit 1
fi

# The packages would start their services: Debian asks this file first.
policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
echo "installing $missing"
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
# Nor are they to start when the machine does: who wants that enables them.
for pair in prometheus:prometheus prometheus-alertmanager:prometheus-alertmanager \
    docker.io:docker docker.io:containerd; do
    case " $was_missing" in *" ${pair%%:*} "*)
        ! command -v systemctl >/dev/null ||
            systemctl --quiet disable "${pair##*:}" 2>/dev/null || true ;;
    esac
done
missing=$(list_missing | sort -u | tr '\n' ' ')
if [ -n "$missing" ]; then
    echo "apt-get installed them, and still missing: $missing" >&2
    exit 1
fi

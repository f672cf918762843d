#!/bin/sh
# Turns fresh namespaces into the node that the lab plays; process 1 of them.
# usage: node.sh STATE NAME ADDRESS/BITS SERVICES CGROUP_MOUNT_OPTIONS...
set -eu
state=$1 name=$2 address=$3 services=$4
shift 4

mount -t proc proc /proc

# Only this node's part of the cgroups, and no cgroup2: kubelet 1.20 would take it for the only one.
mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
for options in "$@"; do
  mkdir "/sys/fs/cgroup/${options#name=}"
  mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/${options#name=}"
done

# The places that a node's programs write to, under their usual names.
for place in /run /var/lib /var/log; do
  mkdir -p "$state/root$place"
  mount --bind "$state/root$place" "$place"
done
mkdir -p /run/lock /run/netns
: >/run/wasmfn-lab-node

# The kubelet sets these three for the whole machine: let it write somewhere else.
for sysctl in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
  standin="$state/sysctl-${sysctl##*/}"
  echo "${sysctl#*=}" >"$standin"
  mount --bind "$standin" "/proc/sys/${sysctl%=*}"
done

# No default route: nothing in here reaches anything outside.
hostname "$name"
ip link set lo up
ip link add node0 type bridge
ip address add "$address" dev node0
ip link set node0 up
ip route add "$services" dev node0
sysctl -qw net.ipv4.ip_forward=1
sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true

mount --make-rshared /
: >"$state/node-ready"
exec tini -s -- sleep infinity

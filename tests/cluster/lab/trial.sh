#!/bin/sh
# Tries what a node takes of the kernel, in fresh namespaces that end with it; says what is refused.
# usage: trial.sh DIRECTORY CGROUP_MOUNT_OPTIONS...
set -u
scratch=$1
shift

may() {
  what=$1
  shift
  said=$("$@" 2>&1) || {
    echo "this machine does not let us $what: $said"
    exit 1
  }
}

may "mount a file system" mount -t tmpfs trial "$scratch"
mkdir "$scratch/proc" "$scratch/cgroup" "$scratch/lower" "$scratch/upper" "$scratch/work" "$scratch/merged"
may "mount a /proc of our own" mount -t proc proc "$scratch/proc"
may "mount cgroups" mount -t cgroup -o "$1" cgroup "$scratch/cgroup"
may "mount layers over each other" mount -t overlay -o \
  "lowerdir=$scratch/lower,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/merged"
# Packages that may still be to come bring these two.
if command -v ip >/dev/null; then
  may "make a bridge" ip link add trial0 type bridge
  may "make a pair of interfaces" ip link add trial1 type veth peer name trial2
fi
if command -v iptables >/dev/null; then
  may "translate addresses" iptables -t nat -A PREROUTING -p tcp --dport 1 \
    -m comment --comment trial -m conntrack --ctstate NEW -m statistic --mode random \
    --probability 0.5 -j DNAT --to-destination 127.0.0.1:1
fi

#!/usr/bin/env bash
# A real SLURM for the tests: munged, slurmctld and slurmd from Debian packages, without systemd or a database. The
# partitions `cpu` and `h100` are one node; `both` adds a second one, on the same machine, for jobs over several nodes.
# A node promises 24 CPUs, 256 GB and two H100 (twins of /dev/null), so that the requests of profiles/slurm can be
# scheduled on any machine. Safe to call again. Everything lies under one folder (TEST_SLURM_STATE), but for two links
# in /etc/slurm, without which the nested `srun` of Snakemake finds no configuration.
# Exit 69: SLURM cannot be had here, for the reason given.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/common.sh"
PACKAGES=(munge slurmctld slurmd slurm-client)
FILES=(slurm.conf gres.conf)

check() {
  [ "$(id -u)" = 0 ] || refuse "SLURM's daemons must be started by root"
  command -v apt-get >/dev/null || refuse "SLURM is installed from Debian packages, and there is no apt-get here"
  local file
  for file in "${FILES[@]}"; do
    if [ -e "/etc/slurm/$file" ] && [ "$(readlink "/etc/slurm/$file")" != "$STATE/etc/$file" ]; then
      refuse "/etc/slurm/$file belongs to another SLURM, which is left alone"
    fi
  done
}

installed() { dpkg-query -W -f='${Status}\n' "${PACKAGES[@]}" 2>/dev/null | grep -c 'ok installed' | grep -qx ${#PACKAGES[@]}; }

install_packages() {
  installed && return
  # Debian asks this file whether a package may start its daemons; ours are started below.
  local policy=/usr/sbin/policy-rc.d made=
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1; }
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${PACKAGES[@]}"; } \
    >"$STATE/log/apt.log" 2>&1 || true
  [ -z "$made" ] || rm -f $policy
  installed || refuse "the packages ${PACKAGES[*]} could not be installed; see $STATE/log/apt.log"
}

folders() {
  mkdir -p "$STATE"/{etc,munge,run,log,gpu,spool/slurmctld} "${NODES[@]/#/$STATE/spool/slurmd-}"
  [ -s "$STATE/munge/key" ] || (umask 077 && head -c 128 /dev/urandom >"$STATE/munge/key")
  local i
  for i in 0 1; do # slurmd sets CUDA_VISIBLE_DEVICES for character devices only
    [ -c "$STATE/gpu/h100-$i" ] || mknod "$STATE/gpu/h100-$i" c 1 3
  done
}

configure() { # rc 0: the files have changed
  local nodes
  nodes=$(IFS=, && echo "${NODES[*]}")
  echo "NodeName=$nodes Name=gpu Type=h100 File=$STATE/gpu/h100-[0-1]" >"$STATE/etc/gres.conf"
  cat >"$STATE/etc/slurm.conf.new" <<CONF
ClusterName=ssimbad
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=16817
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job waits for cred_expire seconds; the default is 120
AuthInfo=socket=$STATE/munge/socket,cred_expire=5
StateSaveLocation=$STATE/spool/slurmctld
SlurmdSpoolDir=$STATE/spool/slurmd-%n
SlurmctldPidFile=$STATE/run/slurmctld.pid
SlurmdPidFile=$STATE/run/slurmd-%n.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdLogFile=$STATE/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
# memory limits without cgroups: looked at every 2 seconds
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$STATE/log/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
# an impossible request is refused at once
EnforcePartLimits=ALL
ReturnToService=2
# believe the node's line below, whatever the machine has
SlurmdParameters=config_overrides
# how long squeue and scontrol still show a finished job; the tests read its request there
MinJobAge=3600
KillWait=30
SlurmctldTimeout=30
SlurmdTimeout=20
MessageTimeout=10
NodeName=DEFAULT CPUs=24 RealMemory=256000 Gres=gpu:h100:2 State=UNKNOWN
NodeName=${NODES[0]} NodeHostname=$HOST NodeAddr=127.0.0.1 Port=16818
NodeName=${NODES[1]} NodeHostname=$HOST NodeAddr=127.0.0.1 Port=16819
PartitionName=cpu Nodes=$HOST Default=YES MaxTime=2-00:00:00 State=UP
PartitionName=h100 Nodes=$HOST MaxTime=2-00:00:00 State=UP
PartitionName=both Nodes=$nodes MaxTime=2-00:00:00 State=UP
CONF
  mkdir -p /etc/slurm
  local file
  for file in "${FILES[@]}"; do ln -sfn "$STATE/etc/$file" "/etc/slurm/$file"; done
  if cmp -s "$STATE/etc/slurm.conf.new" "$STATE/etc/slurm.conf"; then
    rm "$STATE/etc/slurm.conf.new"
    return 1
  fi
  mv "$STATE/etc/slurm.conf.new" "$STATE/etc/slurm.conf"
}

fail() { # MESSAGE LOG
  echo "tests/slurm: $1; the end of $2:" >&2
  tail -20 "$2" >&2
  exit 1
}

start_munged() {
  running munged || munged --key-file="$STATE/munge/key" --socket="$STATE/munge/socket" --seed-file="$STATE/munge/seed" \
    --pid-file="$STATE/run/munged.pid" --log-file="$STATE/log/munged.log" --force
  within 10 timeout 3 munge -n -S "$STATE/munge/socket" || fail "munged does not answer" "$STATE/log/munged.log"
}

start_slurm() {
  running slurmctld || slurmctld -f "$STATE/etc/slurm.conf"
  within 20 timeout 5 scontrol ping || fail "slurmctld does not answer" "$STATE/log/slurmctld.log"
  local node
  for node in "${NODES[@]}"; do
    running "slurmd-$node" || slurmd -N "$node" -f "$STATE/etc/slurm.conf"
  done
  for node in "${NODES[@]}"; do
    within 40 up "$node" || fail "node $node does not come up" "$STATE/log/slurmd-$node.log"
  done
}

up() { # NODE
  sinfo -h -n "$1" -p both -o %T | grep -qE '^(idle|mixed|allocated)$'
}

check
folders
install_packages
if configure && running slurmctld; then "$HERE/stop.sh" --keep-links; fi
start_munged
start_slurm
sinfo -o '%P %a %D %t %c CPUs %m MB %G'

# Sourced by start.sh and stop.sh: where the cluster lives and which processes are its own.
STATE=${TEST_SLURM_STATE:-/var/lib/ssimbad-slurm} # short, because a socket's path may have 107 characters
HOST=$(hostname -s)
NODES=("$HOST" "$HOST-b") # two nodes on one machine
DAEMONS=("${NODES[@]/#/slurmd-}" slurmctld munged) # names of their pid files, in the order in which they are stopped
UNAVAILABLE=69

refuse() { # MESSAGE: a cluster cannot be had on this machine, and nothing was changed
  echo "tests/slurm: $1" >&2
  exit $UNAVAILABLE
}

running() { # DAEMON[-NODE]: its recorded process lives, is that program, and works on this state folder
  local pid
  pid=$(cat "$STATE/run/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "${1%%-*}" ] || return 1
  ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null || return 1 # not a zombie
  tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qF "$STATE/"
}

within() { # SECONDS COMMAND...: wait until the command succeeds
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}

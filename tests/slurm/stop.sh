#!/usr/bin/env bash
# Stop what start.sh started, and nothing else. Logs stay, unless --purge; --keep-links is for start.sh itself.
set -uo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/common.sh"

# Jobs first, while slurmd can still end them.
if running slurmctld; then
  jobs=$(timeout 10 squeue -h -t pending,running,completing,suspended -o %A | sort -u)
  # shellcheck disable=SC2086 # several ids
  [ -z "$jobs" ] || timeout 20 scancel --full --signal=KILL $jobs
  [ -z "$jobs" ] || timeout 20 scancel $jobs
  within 40 bash -c '[ -z "$(squeue -h -t pending,running,completing,suspended)" ]'
fi
stopped() { ! running "$1"; }
for daemon in "${DAEMONS[@]}"; do
  running "$daemon" || continue
  pid=$(cat "$STATE/run/$daemon.pid")
  kill "$pid"
  within 10 stopped "$daemon" || kill -9 "$pid"
  echo "stopped $daemon ($pid)"
done
[ "${1:-}" = --keep-links ] && exit 0
for file in slurm.conf gres.conf; do
  [ "$(readlink "/etc/slurm/$file")" != "$STATE/etc/$file" ] || rm "/etc/slurm/$file"
done
[ "${1:-}" != --purge ] || rm -rf "$STATE"
exit 0

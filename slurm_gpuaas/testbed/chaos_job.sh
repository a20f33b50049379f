#!/bin/bash
# A training job of a campaign. It makes progress while its nodes are well, writes a checkpoint now and then, ends with an
# error or stands still when one is not, and has itself requeued as users' own scripts do. Arguments, all microseconds:
# progress that makes it complete, progress between checkpoints, time to start, time to stand still before a watchdog
# ends it.
set -u
work=$1 interval=$2 start=$3 watchdog=$4
folder=/run/chaos
own=$folder/jobs/$SLURM_JOB_ID
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
exec 3<> <(:) # never has anything to read: waiting on it costs no process

saved=0
[[ -s $own.saved ]] && saved=$(<"$own.saved")
progress=$saved still=0 starting=$start last=${EPOCHREALTIME/./}

save() {
  echo "$progress" > "$own.new" && mv "$own.new" "$own.saved"
  saved=$progress
}

trouble() { # the worst of its nodes and of itself
  local node kind
  found=''
  for node in "${nodes[@]}"; do
    if read -r kind 2> /dev/null < "$folder/broken/$node"; then
      [[ $found == crash ]] || found=$kind
    fi
  done
  if read -r kind 2> /dev/null < "$own.fault"; then
    [[ $found == crash ]] || found=$kind
  fi
}

run_again() {
  rm -f "$own.fault"
  while :; do # whoever gets there first, and however long slurmctld is away
    scontrol requeue "$SLURM_JOB_ID" 2> /dev/null
    read -rt 3 -u 3
  done
}

while :; do
  read -rt 0.25 -u 3
  : > "$own.alive"
  now=${EPOCHREALTIME/./}
  passed=$((now - last))
  last=$now
  trouble
  case $found in
    crash) run_again ;;
    hang)
      still=$((still + passed))
      ((still < watchdog)) || run_again
      continue
      ;;
  esac
  still=0
  if ((starting > 0)); then
    starting=$((starting - passed))
    continue
  fi
  progress=$((progress + passed))
  ((progress - saved < interval)) || save
  if ((progress >= work)); then
    save
    exit 0
  fi
done

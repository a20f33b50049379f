#!/bin/bash
#SBATCH --job-name=torchrun
#SBATCH --account=nlp
#SBATCH --qos=guaranteed
#SBATCH --partition=h200-gov
#SBATCH --time=2-00:00:00
#SBATCH --output=logs/%j.out
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=h200:8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@600
set -euo pipefail

python=(apptainer exec image.sif python3)
launcher=(-m torch.distributed.run --log-dir logs)
script='my code/train.py'
arguments=(--data '/data/set 1' --lr 3e-4)
processes=4
max_restarts=2
max_requeues=3
export CHECKPOINT_DIR='/shared/run 7'

requeues=${SLURM_RESTART_COUNT:-0}
if ((requeues > max_requeues)); then
    echo "Queued again $requeues times, at most $max_requeues are allowed: the checkpoints stay in $CHECKPOINT_DIR." >&2
    exit 1
fi
mkdir -p "$CHECKPOINT_DIR"

# The rendezvous is on the first node, where this script runs. Id and port follow from the job's id, below the ports that
# the kernel hands out by itself.
[[ $(scontrol --oneliner show node "$SLURMD_NODENAME") =~ NodeAddr=([^ ]+) ]]
endpoint=${BASH_REMATCH[1]}:$((29500 + SLURM_JOB_ID % 2000))

export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-^lo,docker}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# One training process. Its rank follows Slurm's order of the nodes, which is the fabric's; torchrun's own follows names.
# shellcheck disable=SC2329  # torchrun calls it
worker() {
    if [[ ${TORCHELASTIC_USE_AGENT_STORE:-} == True ]]; then
        export RANK=$((SLURM_NODEID * LOCAL_WORLD_SIZE + LOCAL_RANK)) GROUP_RANK=$SLURM_NODEID
    fi
    exec "${python[@]}" "$script" "${arguments[@]}"
}

# torchrun on one node. USR2 is ignored from the start, so that it harms nobody who does not wait for it, and handed on to
# the training processes. It may have been sent to the steps alone; the file tells the batch script of it.
# shellcheck disable=SC2329  # srun calls it
on_node() {
    local agent status=0 options
    options=(
        --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$processes" --max-restarts="$max_restarts"
        --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$endpoint"
        --rdzv-conf="is_host=$((SLURM_NODEID == 0))"
    )
    trap '' USR2
    "${python[@]}" "${launcher[@]}" "${options[@]}" --no-python \
        bash -c "$(declare -p python script arguments); $(declare -f worker); worker" &
    agent=$!
    trap ': >"$asked" || true; pkill -USR2 --parent "$agent" || true' USR2
    wait_for "$agent" || status=$?
    return "$status"
}

# `wait` ends when a signal is trapped: wait again until the process itself has ended.
wait_for() {
    local status
    while true; do
        status=0
        wait "$1" || status=$?
        if ((status <= 128)) || ! kill -0 "$1" 2>/dev/null; then
            return "$status"
        fi
    done
}

asked=$CHECKPOINT_DIR/.asked-to-stop-$SLURM_JOB_ID-$requeues
asked_to_stop=no
# shellcheck disable=SC2329  # the trap calls it
checkpoint_and_stop() {
    asked_to_stop=yes
    echo "USR2: a checkpoint is written and the job is queued again."
    scancel --signal=USR2 "$SLURM_JOB_ID" || true
}
trap checkpoint_and_stop USR2

echo "Job $SLURM_JOB_ID, run $((requeues + 1)): $SLURM_JOB_NUM_NODES nodes in rank order $SLURM_JOB_NODELIST, meeting at $endpoint."
program="$(declare -p python launcher script arguments processes max_restarts endpoint asked)
$(declare -f worker wait_for on_node)
on_node"
srun --kill-on-bad-exit=1 bash -c "$program" &
step=$!
status=0
wait_for "$step" || status=$?

if [[ -e $asked ]]; then
    asked_to_stop=yes
    rm -f "$asked"
fi
if [[ $asked_to_stop == yes ]] && ((status == 0)); then
    if ((requeues >= max_requeues)); then
        echo "Queued again $requeues times, no more are allowed: the checkpoints stay in $CHECKPOINT_DIR." >&2
        exit 1
    fi
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

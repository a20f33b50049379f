#!/bin/bash
#SBATCH --job-name=nccl-test
#SBATCH --output=%x-%j.out
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --licenses=placement:1
set -euo pipefail

binary=/opt/nccl-tests/all_reduce_perf
if ! command -v "$binary" >/dev/null; then
    echo "There is no program $binary on $SLURMD_NODENAME: build nccl-tests (make MPI=1) and give its path with --binary." >&2
    exit 127
fi

export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
echo "Nodes in rank order: $SLURM_JOB_NODELIST"
srun --kill-on-bad-exit=1 "$binary" \
    --minbytes 8M --maxbytes 8G --stepfactor 2 \
    --ngpus 1 --iters 20 --check 1

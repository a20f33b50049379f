#!/bin/bash
# NCCL between this node and a good one: all data right. Exit 0 = passed, 77 = nccl-tests are not installed, else failed.
command -v all_reduce_perf >/dev/null || exit 77
gpus=$(nvidia-smi -L | wc -l)
said=$(srun --ntasks-per-node="$gpus" --gpus-per-task=1 all_reduce_perf -b 8M -e 2G -f 4 -c 1) || exit 1
echo "$said"
grep -q '# Out of bounds values : 0 OK' <<<"$said"

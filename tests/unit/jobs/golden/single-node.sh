#!/bin/bash
#SBATCH --job-name=single-node
#SBATCH --time=2:00:00
#SBATCH --output=%x-%j.out
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=2
#SBATCH --cpus-per-gpu=8
set -euo pipefail

command=(python3 train.py --lr 0.1)
echo "Job $SLURM_JOB_ID on $SLURMD_NODENAME: ${SLURM_GPUS_ON_NODE:-no} GPUs."
exec "${command[@]}"

#!/bin/bash
#SBATCH --job-name=try.1
#SBATCH --account=nlp
#SBATCH --qos=burst
#SBATCH --output=%x-%j.out
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-gpu=8
set -euo pipefail

command=(true)
echo "Job $SLURM_JOB_ID on $SLURMD_NODENAME: ${SLURM_GPUS_ON_NODE:-no} GPUs."
exec "${command[@]}"

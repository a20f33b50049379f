"""GPU-seconds used, from Slurm's accounting: never lost, never counted twice."""

"""GPU-as-a-Service on Slurm."""

__version__ = "0.1.0"

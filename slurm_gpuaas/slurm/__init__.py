"""The one door to Slurm: protocols in domain terms, and the drivers behind them. Nothing else talks to Slurm."""

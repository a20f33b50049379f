"""The web portal (built with the pool's issue). It never sees `slurm_gpuaas.slurm`."""

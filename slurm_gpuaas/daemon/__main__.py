from slurm_gpuaas.daemon.main import main

main()

from slurm_gpuaas.cli.main import main

main()

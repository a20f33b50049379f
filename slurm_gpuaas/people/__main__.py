from slurm_gpuaas.people.main import main

main()

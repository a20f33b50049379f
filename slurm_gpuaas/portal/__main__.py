from slurm_gpuaas.portal.main import main

main()

from slurm_gpuaas.agent.main import main

main()

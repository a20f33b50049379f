"""What gpuaasd and gpuaas-portal have in common as programs: their configuration file, their log, their way to end."""

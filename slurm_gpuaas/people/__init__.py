"""`gpuaas-people`: gives the people of projects a login on the cluster, and takes it back. The only part that runs as
root, and so knows nothing of Slurm, portal or store (docs/design/0028-people-on-a-site.md)."""

#!/bin/bash
# The checks that a node must pass before it is given back. Exit 0 = passed, else failed.
export PATH=$PATH:/opt/gpuaas/venv/bin:/usr/local/bin
gpuaas-agent --nodes "${SLURMD_NODENAME:?}" check --once --dry-run --context return
status=$?
[ "$status" -eq 1 ] && exit 0 # WARNING: it is told of, and keeps no node out
exit "$status"

"""Quota: what the policy entitles a project to, as Slurm objects, and the way there."""

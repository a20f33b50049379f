"""The national demo: three Slurm clusters, one portal, people who apply, are awarded, compute and pay.

`cast` says who there is and what they ask for (data and pure), `visitor` is a person's browser and API token,
`pictures` a real Chromium, `stage` brings machines up and moves their clock. What happens, step by step and each
confirmed in Slurm, is `calling`, `running`, `idling`, `surviving` and `settling`, in this order (`play`), over what
they share (`story`).
"""

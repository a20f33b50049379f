"""The web portal: pages and API of the pool, for people of all organisations. It never sees `slurm_gpuaas.slurm`.

app         puts the application together; other parts hang their pages on it as `feature.Feature`s
rights      who may do what: one table
visit       who asks: session or token, CSRF, rate limits
pages       templates, components, static files
words       Korean and English
"""

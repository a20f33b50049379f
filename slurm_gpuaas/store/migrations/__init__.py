"""Alembic migrations, packaged with the product so that gpuaasd brings its store up to date by itself."""

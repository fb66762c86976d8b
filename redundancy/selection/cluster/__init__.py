"""The stage link on a Dask cluster. Imports Dask, which is an extra."""

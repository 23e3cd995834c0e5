"""Snakemake over papermill: a profile's notebooks, here or on a cluster."""

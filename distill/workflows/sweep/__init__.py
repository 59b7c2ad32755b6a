"""A search over keys of a configuration: a W&B sweep file, its trials, and running them here one after the other."""

"""YAML files and overrides, merged into one mapping; what may be named in it. Without torch."""

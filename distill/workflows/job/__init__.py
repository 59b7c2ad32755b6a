"""A configuration, typed and built: from YAML to objects."""

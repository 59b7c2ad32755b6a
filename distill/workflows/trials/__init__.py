"""What a sweep and a search have in common: a recipe tried again and again with other values, each time a run."""

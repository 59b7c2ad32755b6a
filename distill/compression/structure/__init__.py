"""Changes of a model's structure: removed heads, neurons and layers, factorized and shared weights."""

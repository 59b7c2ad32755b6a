"""Changes of a model's structure: removed heads, neurons and layers, factorised and shared weights."""

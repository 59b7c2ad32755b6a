"""Pruning, quantization, structure and sensitivity: pure functions and the layers that use them."""

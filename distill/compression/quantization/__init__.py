"""Quantization: fake-quantization, observers and the layers that use them."""

"""Quantisation: fake-quantisation, observers and the layers that use them."""

"""``distill predict``: what a saved model says of texts."""

"""``distill init``: data looked at, and a configuration to begin with."""

"""``distill report``: models of one or several runs measured on the same samples, side by side."""

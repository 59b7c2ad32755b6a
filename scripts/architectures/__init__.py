"""Every architecture of the installed transformers, as small as it can be made, through all that distill does."""

"""``distill evaluate``: language models on the tasks of lm_eval."""

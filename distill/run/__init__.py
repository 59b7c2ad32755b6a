"""All that lies in a run's folder: its lock, checkpoints, logs, history, and the lists of runs."""

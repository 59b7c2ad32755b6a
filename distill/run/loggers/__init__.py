"""What writes a run's history: csv, TensorBoard, W&B. None of them can stop it."""

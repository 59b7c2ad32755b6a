"""What a user ships: a folder for transformers, ONNX in float and in integers."""

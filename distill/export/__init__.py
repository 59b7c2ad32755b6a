"""What a user deploys: a folder for transformers, ONNX in float and in integers."""

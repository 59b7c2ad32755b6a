"""What ONNX needs: a graph of a model, its integers, and onnxruntime."""

"""Knowledge distillation, gradual pruning and quantization-aware training in one PyTorch Lightning run."""

__version__ = "0.1.0"

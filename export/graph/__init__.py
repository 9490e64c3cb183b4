"""From networks to ONNX graphs."""

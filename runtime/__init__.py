"""From a bundle and a picture to a picture four times the size. Never imports torch or onnx."""

"""The same answers without a server: a model repository whose ONNX models run in this process."""

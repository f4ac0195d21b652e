"""A network as files that run without this project: StableHLO, ONNX, and safetensors with its definition in Flax."""

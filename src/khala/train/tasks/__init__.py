"""What is trained: the codec, the backbone, super-resolution."""

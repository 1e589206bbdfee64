"""Exchange of weights with PyTorch and diffusers."""

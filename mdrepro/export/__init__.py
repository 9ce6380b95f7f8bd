"""Networks as files for phones, LiteRT and Core ML: checked against PyTorch, and run without it."""

"""Networks as files for phones: LiteRT and Core ML, held to torch before they are written, and run without torch."""

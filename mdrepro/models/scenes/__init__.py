"""Small networks for drawn scenes."""

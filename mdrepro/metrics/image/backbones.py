"""Networks of torchvision whose weights LPIPS needs, by name. Importing this module imports no torch."""

BACKBONES = {"alex": ("alexnet", "alexnet-owt-7be5be79.pth"), "vgg": ("vgg16", "vgg16-397923af.pth")}
"""For each net of LPIPS: torchvision's model and the file of its weights, which carries the start of its SHA-256."""

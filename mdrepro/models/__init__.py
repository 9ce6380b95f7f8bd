"""The networks of both papers, and their baselines from diffusers."""

import logging

# torchao comes along with the exporter; diffusers and torch warn about it at import, which concerns nobody here.
for _name in ("diffusers.quantizers.torchao.torchao_quantizer", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

"""The code in docs/use.md runs as it stands there, on tiny networks."""

import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tests.support import tiny_pipeline as tiny

PAGE = Path(__file__).resolve().parents[1] / "docs" / "use.md"


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    tiny.pipeline().save_pretrained("checkpoint")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {"folder": "checkpoint"}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    assert len(names["images"]) == 2
    assert Image.open("star.png").size == names["image"].size == (64, 64)
    assert names["pipe"].unet.dtype == torch.bfloat16
    assert names["again"].shape == (1, 3, 64, 64)

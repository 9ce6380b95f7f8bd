"""Training and evaluation data: scenes, photographs, captioned pictures, COCO."""

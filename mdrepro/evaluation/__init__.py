"""What a table of quality asks for: captions, images and their scores, on scenes or on COCO."""

"""Size and cost of a network as numbers; see `mdrepro.metrics.cost.measure` for what is counted."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Cost:
    """Size and cost of one forward pass at batch 1 for an image of ``resolution`` px height and width.

    ``macs_without_attention`` are the multiply-accumulates with a weight as one operand, ``flops`` is 2 x ``macs``.
    """

    model: str
    params: int
    macs: int
    macs_without_attention: int
    flops: int
    resolution: int

    @property
    def attention_share(self) -> float:
        """Attention products as a part of all MACs, 0 to 1."""
        return 1 - self.macs_without_attention / self.macs

    def as_dict(self) -> dict[str, str | int]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Macs:
    """MACs of one forward pass: products with a weight, and products of two activations (attention)."""

    weights: int
    attention: int

"""What each verdict and each mark means, and its sign: the report's legend."""

VERDICTS = {
    "reproduced": "Our number lies within the tolerance that was declared for the cell before anything was measured.",
    "by construction": (
        "Within the tolerance, because this project put the figure in or chose its network to fit: not reproduced."
    ),
    "within noise": "Outside the tolerance, but our 95 % interval holds the paper's figure.",
    "differs": "Outside the tolerance, and our 95 % interval does not hold the paper's figure.",
    "unconfirmed": "The paper's figure is only recalled or inferred: it is shown, and nothing is claimed about it.",
    "not comparable": (
        "This tier measures smaller networks or other data than the paper did: claims are tested, cells are not."
    ),
    "not attempted": "Not measured here; the page says why and how to get what is missing.",
    "no paper figure": "Neither paper gives a figure for this cell.",
}
CLAIM_VERDICTS = {
    "holds": "Every inequality is true even at the unfavourable ends of the 95 % intervals.",
    "by construction": "It holds because this project put its figures in or chose the networks to fit them.",
    "within noise": "The 95 % intervals do not decide.",
    "bed not sensitive": (
        "Nothing was seen to be lost, but the positive control, which must lose, was not seen to lose either."
    ),
    "does not hold": "At least one inequality is false even at the favourable ends of the 95 % intervals.",
    "unconfirmed": "The claim itself is only recalled or inferred: its numbers are shown, and nothing is claimed.",
    "not attempted": "A number that the claim needs was not measured.",
}
TAGS = {
    "read-P": "Seen in the paper's own text, the authors' repository or an authors' figure.",
    "read-S": "Seen in a secondary source that was opened (a reading note, a digest, another paper's table).",
    "inferred": "Worked out by us (arithmetic, parameter count, plot digitising). Never counts as reproduced.",
    "recalled": "Remembered and seen in no source. Never counts as reproduced.",
    "not found": "Looked for and not seen.",
}
GLYPHS = {
    "reproduced": "✓",
    "holds": "✓",
    "by construction": "=",
    "bed not sensitive": "∅",
    "within noise": "≈",
    "differs": "≠",
    "does not hold": "✗",
    "unconfirmed": "?",
    "not comparable": "∥",
    "not attempted": "○",
    "no paper figure": "–",
}

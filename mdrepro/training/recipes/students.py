"""Students of few steps for the tables of step distillation, quick tier; see `mdrepro.training.recipes.registry`.

They are short and trained in the same way, so that they can be compared: all begin with the same network, and those of
one comparison see equally many batches, fewer than `shapes-8`, which is trained to be used.

An update costs five evaluations of the network (three for the student's, two for a teacher's two steps), twice as many
where both are guided; 225 updates of 32 samples take 80 seconds of a core. What each came to is measured in the tables
snapfusion-step-distillation and snapfusion-distillation-ablations, whose claims judge what is wanted here.
"""

from collections.abc import Mapping
from dataclasses import replace

from mdrepro.training.recipes.defaults import DISTILLATION, Values
from mdrepro.training.recipes.quick import FEW_STEPS, ON_SHAPES

SHORT = replace(FEW_STEPS, steps=225, batch=32, warmup=25)
WHOLE, THIRD, LAST = replace(SHORT, steps=450), replace(SHORT, steps=150), replace(SHORT, steps=125)
"""All 450 updates of a method, of a chain of three, and of two after one of 200."""
GUIDED: Values = {"guidance": (1.0, 14.0)}
AT_3: Values = {"guidance": (3.0, 3.0)}
few_steps = ON_SHAPES.few_steps

ABLATED: Mapping[str, tuple[str | None, Values]] = {
    # Defaults: Figs. 6c (mixed), 6d (2 to 14, 0.1), 7a (with), 7b (dynamic, 0.2), 7c (16 steps); the teacher is the
    # student's own 16-step version (appendix D)
    "shapes-8-mixed": (None, {}),
    # Fig. 6c, 6d
    "shapes-8-vanilla": (None, {"probability": 0.0}),
    "shapes-8-cfg": (None, {"probability": 1.0}),
    "shapes-8-w3": (None, AT_3),
    "shapes-8-p20": (None, {"probability": 0.2}),
    "shapes-8-p20-w7": (None, {"probability": 0.2, "guidance": (7.0, 14.0)}),
    "shapes-8-p50": (None, {"probability": 0.5}),
    # Fig. 7a, which is Fig. 7b's constant weight of 0, and Fig. 7b
    "shapes-8-no-original": (None, {"gamma": 0.0}),
    "shapes-8-dynamic-001": (None, {"gamma": 0.01}),
    "shapes-8-dynamic-1": (None, {"gamma": 1.0}),
    "shapes-8-constant-1": (None, {"gamma": 1.0, "scaling": "constant"}),
    # Fig. 7c: of 32 steps and more the teacher is the undistilled network, as the paper's own of 32 steps is
    "shapes-8-teacher-32": ("shapes-base", {"teacher_steps": 32}),
    "shapes-8-teacher-64": ("shapes-base", {"teacher_steps": 64}),
    # Fig. 4 right: the teacher is another design's 16-step version, itself distilled with the CFG-aware loss
    "shapes-8-teacher-sd": ("shapes-sd-16", {}),
}
"""Students of 8 steps by name: the teacher, if it is not shapes-16, and what differs from the defaults.

wanted: FID[shapes] and CLIP score[shapes] ordered as in SnapFusion's Figs. 6 and 7
"""

STUDENTS = (
    # Stands in for SD-1.5's 16-step version, the teacher of SnapFusion's efficient UNet.
    # wanted: attributes within 3 points of shapes-sd in 50 steps
    few_steps("shapes-sd-16", 16, "shapes-sd", SHORT),
    *(
        few_steps(name, 8, "shapes-16", SHORT, teacher=teacher, options={"steps": 8, **DISTILLATION, **changes})
        for name, (teacher, changes) in ABLATED.items()
    ),
    # Table 2 and Figs. 6a and 6b: five methods from shapes-base to 8 steps, each in 450 updates. This is the paper's.
    # wanted: the lowest FID[shapes] of the five
    few_steps("shapes-16-direct", 16, "shapes-base", SHORT),
    few_steps("shapes-8-direct", 8, "shapes-16-direct", SHORT),
    # Fig. 6a: the same loss along a chain, 64 -> 32 -> 16 -> 8.
    # wanted: worse than shapes-8-direct
    few_steps("shapes-32-chain", 32, "shapes-base", THIRD),
    few_steps("shapes-16-chain", 16, "shapes-32-chain", THIRD),
    few_steps("shapes-8-chain", 8, "shapes-16-chain", THIRD),
    # Plain progressive distillation (arXiv 2202.00512): neither guidance nor the original loss.
    # wanted: a lower highest CLIP score[shapes] than shapes-8-direct
    few_steps("shapes-16-plain", 16, "shapes-base", SHORT, kind="progressive", options={"steps": 16}),
    few_steps("shapes-8-plain", 8, "shapes-16-plain", SHORT, kind="progressive", options={"steps": 8}),
    # Distillation conditioned on guidance (arXiv 2210.03142): w becomes an input, then the steps are halved.
    # wanted: a higher FID[shapes] and a lower highest CLIP score[shapes] than shapes-8-direct
    few_steps("shapes-w", 50, "shapes-base", replace(SHORT, steps=200), kind="guidance", options=GUIDED),
    few_steps("shapes-16-w", 16, "shapes-w", LAST, kind="conditioned", options={"steps": 16, **GUIDED}),
    few_steps("shapes-8-w", 8, "shapes-16-w", LAST, kind="conditioned", options={"steps": 8, **GUIDED}),
    # Latent consistency distillation (arXiv 2310.04378) with w of shapes-base; no guidance is left to be done.
    # wanted: nothing; the paper does not compare with it.
    few_steps("shapes-8-lcm", 8, "shapes-base", WHOLE, kind="consistency", guidance=1.0, options=AT_3),
)

"""Students of few steps for the tables of step distillation, quick tier; see `mdrepro.training.recipes.registry`.

Here 4 steps stand for the papers' 8, 8 for 16, 16 for 32 and 32 for 64: on scenes the undistilled network is almost as
good in 8 steps as in 50, so that little is left to distil (docs/metrics.md, "Steps and guidance on scenes").

Those that are compared are short and trained in the same way: all begin with the same network, and those of one
comparison see equally many batches, fewer than `shapes-4`, which is trained to be used.

An update costs five evaluations of the network (three for the student's, two for a teacher's two steps), twice as many
where both are guided; 225 updates of 32 samples take 80 seconds of a core. What each came to is measured in the tables
snapfusion-step-distillation and snapfusion-distillation-ablations, whose claims judge what is wanted here.
"""

from collections.abc import Mapping
from dataclasses import replace

from mdrepro.training.recipes.defaults import DISTILLATION, DROP, Values
from mdrepro.training.recipes.quick import FEW_STEPS, HALF, ON_SHAPES

SHORT = replace(FEW_STEPS, steps=225, batch=32, warmup=25)
WHOLE, THIRD = replace(SHORT, steps=450), replace(SHORT, steps=150)
"""All 450 updates of a method, and of a chain of three."""
CONDITIONING = replace(SHORT, steps=3000, learning_rate=5e-4)
GUIDED: Values = {"guidance": (1.0, 5.0)}
"""Of w as an input: w from 0 to 4 of arXiv 2210.03142, where there is one more; images are sampled below."""
AT_3: Values = {"guidance": (3.0, 3.0)}
AT_END: Values = {"guidance": (2.5, 2.5)}
"""Where guidance ends on scenes: w of Table 2's rows."""
few_steps = ON_SHAPES.few_steps

ABLATED: Mapping[str, tuple[str | None, Values]] = {
    # Defaults: Figs. 6c (mixed), 6d (2 to 14, 0.1), 7a (with), 7b (dynamic, 0.2), 7c (8 steps for 16); the teacher is
    # the student's own version of twice as many steps (appendix D)
    "shapes-4-mixed": (None, {}),
    # Fig. 6c, 6d
    "shapes-4-vanilla": (None, {"probability": 0.0}),
    "shapes-4-cfg": (None, {"probability": 1.0}),
    "shapes-4-w3": (None, AT_3),
    "shapes-4-p20": (None, {"probability": 0.2}),
    "shapes-4-p20-w7": (None, {"probability": 0.2, "guidance": (7.0, 14.0)}),
    "shapes-4-p50": (None, {"probability": 0.5}),
    # Fig. 7a, which is Fig. 7b's constant weight of 0, and Fig. 7b
    "shapes-4-no-original": (None, {"gamma": 0.0}),
    "shapes-4-dynamic-001": (None, {"gamma": 0.01}),
    "shapes-4-dynamic-1": (None, {"gamma": 1.0}),
    "shapes-4-constant-1": (None, {"gamma": 1.0, "scaling": "constant"}),
    # Fig. 7c, 16 and 32 steps for 32 and 64: the teacher is the undistilled network, as the paper's own of 32 is
    "shapes-4-teacher-16": ("shapes-base", {"teacher_steps": 16}),
    "shapes-4-teacher-32": ("shapes-base", {"teacher_steps": 32}),
    # Fig. 4 right: the teacher is another design's 8-step version, itself distilled with the CFG-aware loss
    "shapes-4-teacher-sd": ("shapes-sd-8", {}),
}
"""Students of 4 steps by name: the teacher, if it is not shapes-8, and what differs from the defaults.

wanted: FID[shapes] and CLIP score[shapes] ordered as in SnapFusion's Figs. 6 and 7
"""

STUDENTS = (
    # SnapFusion from end to end. Its last teacher: shapes-sd in 8 steps (the paper's 16), by the CFG-aware loss, in
    # as many updates as shapes-8.
    # wanted: attributes within 3 points of shapes-sd in 50 steps
    few_steps("shapes-sd-8", 8, "shapes-sd", HALF),
    # The evolved network's own version of as many steps, where the last student begins.
    # wanted: as shapes-snap in 50 steps
    few_steps("shapes-snap-8", 8, "shapes-snap", HALF),
    # The product: student shapes-snap-8, teacher shapes-sd-8.
    # wanted: as shapes-sd in 50 steps
    few_steps("shapes-snap-4", 4, "shapes-snap-8", FEW_STEPS, teacher="shapes-sd-8"),
    *(
        few_steps(name, 4, "shapes-8", SHORT, teacher=teacher, options={"steps": 4, **DISTILLATION, **changes})
        for name, (teacher, changes) in ABLATED.items()
    ),
    # Table 2 and Figs. 6a and 6b: five methods from shapes-base to 4 steps, each in 450 updates. This is the paper's.
    # wanted: the lowest FID[shapes] of the five
    few_steps("shapes-8-direct", 8, "shapes-base", SHORT),
    few_steps("shapes-4-direct", 4, "shapes-8-direct", SHORT),
    # Fig. 6a: the same loss along a chain, 32 -> 16 -> 8 -> 4 (the paper's 64 -> 32 -> 16 -> 8).
    # wanted: worse than shapes-4-direct
    few_steps("shapes-16-chain", 16, "shapes-base", THIRD),
    few_steps("shapes-8-chain", 8, "shapes-16-chain", THIRD),
    few_steps("shapes-4-chain", 4, "shapes-8-chain", THIRD),
    # Plain progressive distillation (arXiv 2202.00512): neither guidance nor the original loss.
    # wanted: a lower highest CLIP score[shapes] than shapes-4-direct
    few_steps("shapes-8-plain", 8, "shapes-base", SHORT, kind="progressive", options={"steps": 8, **DROP}),
    few_steps("shapes-4-plain", 4, "shapes-8-plain", SHORT, kind="progressive", options={"steps": 4, **DROP}),
    # Distillation conditioned on guidance (arXiv 2210.03142): w becomes an input, which the other methods need not
    # learn; its updates come on top of the 450 in which the steps are halved.
    # wanted: a higher FID[shapes] and a lower highest CLIP score[shapes] than shapes-4-direct
    # measured after 1,500 updates in place of 3,000: 91.3 % of attributes at w 1.5 and 95.2 % at 2.5 in 50 steps (400
    # validation captions; shapes-base 92.2 at 1.5 and 95.1 at 3), paired distance 0.46 and 0.55 (0.28 and 0.43)
    few_steps("shapes-w", 50, "shapes-base", CONDITIONING, kind="guidance", options=GUIDED),
    few_steps("shapes-8-w", 8, "shapes-w", SHORT, kind="conditioned", options={"steps": 8, **GUIDED}),
    few_steps("shapes-4-w", 4, "shapes-8-w", SHORT, kind="conditioned", options={"steps": 4, **GUIDED}),
    # Latent consistency distillation (arXiv 2310.04378) with w of Table 2's rows; no guidance is left to be done.
    # wanted: nothing; the paper does not compare with it.
    few_steps("shapes-4-lcm", 4, "shapes-base", WHOLE, kind="consistency", guidance=1.0, options=AT_END),
)

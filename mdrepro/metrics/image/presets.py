"""Published protocols of FID and CLIP score on COCO, each a row of data with its sources.

Sources carry the tags of docs/papers.md: ``read-P`` was read in the authors' own code or paper, ``inferred`` was worked
out from it, ``not found`` is said nowhere that was looked at, and what stands here for it is another row's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.resizing import Reduction
from mdrepro.metrics.image.scores import Score

SQUASHED = Reduction(256, "bicubic")
CROPPED = Reduction(256, "lanczos", "torchvision")


@dataclass(frozen=True)
class Preset:
    """How a project scores images of COCO's captions.

    ``sampler``, ``captions`` and ``references`` are what its published numbers rest on: images that are given are not
    checked against them.
    """

    name: str
    sampler: str
    captions: str
    n: int  # generated images
    references: str
    n_references: int | None  # None where it is not said
    reduction: Reduction  # of generated and of real images, before the FID's encoder
    encoder: str  # FID's, a row of `catalogue.ENCODERS`
    clip: str  # MODEL/TAG of open_clip
    clip_reduction: Reduction | None  # of generated images, before the CLIP score's encoder
    prefix: str  # put before each caption
    sources: Mapping[str, str] = field(hash=False)  # by field's name

    @property
    def text(self) -> str:
        """All fields and sources, for people."""
        size = "a number not said" if self.n_references is None else f"{self.n_references:,}"
        before_clip = self.clip_reduction.what if self.clip_reduction else "as they are"
        prefix = f', captions after "{self.prefix}"' if self.prefix else ""
        parts = {
            "sampler": f"sampler {self.sampler}",
            "captions": f"captions {self.captions}",
            "n": f"{self.n:,} images",
            "references": f"references {self.references}",
            "n_references": f"of {size}",
            "reduction": f"images {self.reduction.what}",
            "encoder": f"FID by {self.encoder}",
            "clip": f"CLIP score (cosine) by open_clip's {self.clip}",
            "clip_reduction": f"its images {before_clip}",
            "prefix": prefix.removeprefix(", ") or "captions as they are",
        }
        cited = (f"{part} ({self.sources[name]})" if name in self.sources else part for name, part in parts.items())
        return f"{self.name}: {'; '.join(cited)}"

    def clip_weights(self, given: str | None) -> str:
        """open_clip's source of this protocol's CLIP: what is ``given`` as MODEL=FILE, or its own.

        Raises BadInput for another model.
        """
        model = self.clip.partition("/")[0]
        if given is not None and given.partition("=")[0] != model:
            raise BadInput(f"--clip-weights {given}: {self.name} takes {self.clip}: expected {model}=FILE")
        return given or self.clip

    def prepared(
        self, fid: Encoder | None, clip: Encoder | None, captions: Sequence[str] | None
    ) -> tuple[Encoder | None, Encoder | None, list[str] | None]:
        """Encoders and captions as this protocol has them."""
        return (
            fid and replace(fid, reduction=self.reduction),
            clip and replace(clip, reduction=self.clip_reduction),
            None if captions is None else [self.prefix + caption for caption in captions],
        )

    def described(self, score: Score) -> Score:
        """A score with this protocol's text, and by how many images it differs."""
        differing = [] if score.n == self.n else [f"{score.n:,} images in place of {self.n:,}"]
        if None not in (score.n_reference, self.n_references) and score.n_reference != self.n_references:
            differing.append(f"{score.n_reference:,} references in place of {self.n_references:,}")
        here = f"; HERE {' and '.join(differing)}" if differing else ""
        return replace(score, protocol=f"{score.protocol}; protocol {self.text}{here}")


_BK, _DMD, _T2I = (
    "Nota-NetsPresso/BK-SDM",
    "tianweiy/DMD2 main/coco_eval/coco_evaluator.py",
    "boomb0om/text2image-benchmark",
)
_GIGA, _SNAP = "mingukkang/GigaGAN evaluation/", "arXiv 2306.00980"
_BK_SDM = Preset(
    "bk-sdm",
    sampler="PNDM, 25 steps",
    captions="metadata.csv, of COCO 2014 val",
    n=30_000,
    references="all of COCO 2014 val",
    n_references=40_504,
    reduction=SQUASHED,
    encoder="legacy-pytorch",
    clip="ViT-g-14/laion2b_s34b_b88k",
    clip_reduction=SQUASHED,
    prefix="",
    sources={
        "sampler": f"read-P: {_BK} MODEL_CARD.md",
        "captions": f"read-P: {_BK} src/generate.py",
        "n": f"read-P: {_BK} MODEL_CARD.md",
        "references": f"read-P: {_BK} src/get_stat_mscoco_val2014.py",
        "n_references": f"read-P: {_BK} src/get_stat_mscoco_val2014.py",
        "reduction": f"read-P: {_BK} src/utils/misc.py, resize((256, 256)); bicubic inferred: Pillow's "
        "default. It saves JPEG before and after, which is not repeated",
        "encoder": f"read-P: {_BK} scripts/eval_scores.sh, pytorch-fid",
        "clip": f"read-P: {_BK} src/eval_clip_score.py",
        "clip_reduction": f"read-P: {_BK} scripts/eval_scores.sh",
        "prefix": f"read-P: {_BK} src/eval_clip_score.py",
    },
)
_ROWS = (
    _BK_SDM,
    Preset(
        "dmd2",
        sampler="one step of the student",
        captions="a list of COCO 2014 captions",
        n=30_000,
        references="COCO 2014 val",
        n_references=40_504,
        reduction=CROPPED,
        encoder="clean",
        clip="ViT-g-14/laion2b_s12b_b42k",
        clip_reduction=CROPPED,
        prefix="A photo depicts ",
        sources={
            "sampler": "read-P: tianweiy/DMD2 main/test_folder_sd.py",
            "captions": "read-P: tianweiy/DMD2 main/test_folder_sd.py, captions_coco14_test.pkl",
            "n": "read-P: tianweiy/DMD2 main/test_folder_sd.py, total_eval_samples",
            "references": "read-P: tianweiy/DMD2 main/test_folder_sd.py, ref_dir val2014",
            "n_references": "inferred: the pictures of val2014",
            "reduction": f"read-P: {_DMD}",
            "encoder": f"read-P: {_DMD}, clean-fid in its mode clean",
            "clip": f"read-P: {_DMD}, which calls it ViT-G/14",
            "clip_reduction": f"read-P: {_DMD}",
            "prefix": f"read-P: {_DMD}",
        },
    ),
    Preset(
        "text2image-benchmark",
        sampler="of each model's wrapper",
        captions="MS-COCO_val2014_30k_captions.csv",
        n=30_000,
        references="MS-COCO_val2014_fid_stats.npz, of the validation set of 2014",
        n_references=None,
        reduction=Reduction(299, "bicubic", "numpy"),
        encoder="legacy-pytorch",
        clip="ViT-B-32/openai",
        clip_reduction=None,
        prefix="",
        sources={
            "sampler": f"read-P: {_T2I} README.md",
            "captions": f"read-P: {_T2I} README.md",
            "n": f"read-P: {_T2I} README.md",
            "references": f"read-P: {_T2I} README.md",
            "n_references": "not found",
            "reduction": f"read-P: {_T2I} T2IBenchmark/utils/resizers.py",
            "encoder": f"read-P: {_T2I} T2IBenchmark/feature_extractors/, pytorch-fid's network on 2 x - 1",
            "clip": f"read-P: {_T2I} T2IBenchmark/pipelines.py, OpenAI's ViT-B/32",
            "clip_reduction": f"read-P: {_T2I} T2IBenchmark/pipelines.py",
            "prefix": f"read-P: {_T2I} T2IBenchmark/pipelines.py",
        },
    ),
    replace(
        _BK_SDM,
        name="snapfusion",
        sampler="DDIM, guidance 1.0 to 10.0",
        captions="30K pairs of COCO 2014 val",
        sources=dict.fromkeys(_BK_SDM.sources, f"not found in {_SNAP}: as bk-sdm")
        | dict.fromkeys(("sampler", "captions", "n"), f"read-P: {_SNAP}")
        | {"clip": f"ViT-g/14 read-P: {_SNAP}; which weights: not found in {_SNAP}: as bk-sdm"},
    ),
    Preset(
        "gigagan",
        sampler="one pass of the generator at 256 px",
        captions="captions.txt, published with its images of COCO 2014",
        n=30_000,
        references="COCO 2014 val",
        n_references=40_504,
        reduction=CROPPED,
        encoder="clean",
        clip="ViT-B-32/openai",
        clip_reduction=CROPPED,
        prefix="A photo depicts ",
        sources={
            "sampler": f"read-P: {_GIGA}README.md, noise to 256 px",
            "captions": f"read-P: {_GIGA}data_util.py",
            "n": f"read-P: {_GIGA}scripts/evaluate_GigaGAN_t2i_coco256.sh",
            "references": f"read-P: {_GIGA}evaluation.py, val2014",
            "n_references": "inferred: the pictures of val2014",
            "reduction": f"read-P: {_GIGA}evaluation.py",
            "encoder": f"read-P: {_GIGA}evaluation.py, clean-fid in its mode clean",
            "clip": f"read-P: {_GIGA}evaluation.py's default, which its script for COCO leaves; OpenAI's ViT-B/32",
            "clip_reduction": f"read-P: {_GIGA}data_util.py",
            "prefix": f"read-P: {_GIGA}evaluation.py",
        },
    ),
)
PRESETS = {row.name: row for row in _ROWS}

"""``mdrepro evaluate``: metrics of folders of images. Every command is a thin call into `mdrepro.metrics`."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from mdrepro.cli import options
from mdrepro.cli.commands import register
from mdrepro.cli.options import (
    Clip,
    ClipScale,
    Device,
    Encoder,
    FidPackage,
    Json,
    PairsPackage,
    Protocol,
    print_json,
)
from mdrepro.core import distributed
from mdrepro.core.errors import BadInput, NotAttempted, check

if TYPE_CHECKING:
    import torch

    from mdrepro.metrics.image.encoders import Encoder as Loaded
    from mdrepro.metrics.image.networks import Network
    from mdrepro.metrics.image.peers.comparison import Comparison
    from mdrepro.metrics.image.scores import Score

app = typer.Typer(help="Metrics of folders of images, each number with its protocol.", no_args_is_help=True)

STATISTICS = (".safetensors", ".npz")
Metrics = Annotated[str | None, typer.Option("--metrics", help="Names, with commas between them.")]
ENCODER = typer.Option(
    "--encoder", metavar="NAME", help=f"A row of `mdrepro evaluate encoders`: {', '.join(get_args(Encoder))}."
)
PublishedProtocol = Annotated[
    Protocol | None, typer.Option("--protocol", help="All of a published protocol: sizes, encoder and CLIP.")
]
Weights = Annotated[str | None, typer.Option("--weights", help="The encoder's weights: a file, folder or hub name.")]
Sha = Annotated[str | None, typer.Option("--sha256", help="Hash of weights that are not the published ones.")]
Captions = Annotated[
    Path | None,
    typer.Option(
        "--captions", help="One caption a line in the order of the images' numbers; or .jsonl with file_name and text."
    ),
]
ClipName = Annotated[Clip | None, typer.Option("--clip", help="The CLIP of the CLIP score.")]
ClipWeights = Annotated[str | None, typer.Option("--clip-weights", help="As --weights, of --clip.")]
ClipSha = Annotated[str | None, typer.Option("--clip-sha256", help="As --sha256, of --clip.")]
HpsWeights = Annotated[str | None, typer.Option("--hps-weights", help="As --weights, of the metric hps.")]
HpsSha = Annotated[str | None, typer.Option("--hps-sha256", help="As --sha256, of --hps-weights.")]
Few = Annotated[bool, typer.Option("--few", help="Take sets that are too small, and mark the numbers as biased.")]
Download = Annotated[bool, typer.Option("--download", help="Get weights that are not on this machine.")]
DeviceName = Annotated[Device, typer.Option("--device", help="Where networks run.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images at once.")]
AGAINST = typer.Option("--against", help="Also run this package, and explain a difference.")


def reconstruction(
    reference: Annotated[Path, typer.Argument(metavar="REF_DIR", help="The originals.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Reconstructions of the same names and sizes.")],
    metrics: Metrics = None,
    against: Annotated[PairsPackage | None, AGAINST] = None,
    as_json: Json = False,
) -> None:
    """PSNR, SSIM, MS-SSIM and LPIPS of images against their originals.

    --against scikit-image, torchmetrics or lpips prints that package's numbers beside ours, and which convention
    explains a difference.
    """
    wanted = _names(metrics, options.PAIR_METRICS)
    _check_there(reference, folder)
    from mdrepro.metrics.image import pairs

    head: dict[str, Any] = {"reference": str(reference), "reconstructions": str(folder)}
    if against:
        from mdrepro.metrics.image.peers import reconstruction as peers

        _print_compared(head, *peers.against(reference, folder, against, wanted), as_json)
        return
    scores = pairs.evaluate(reference, folder, wanted)
    _print_scores(head | {"pairs": len(pairs.paired(reference, folder))}, scores, as_json)
    if wanted and any(score.value is None for score in scores):
        raise typer.Exit(1)


def image_sets(
    real: Annotated[Path, typer.Argument(metavar="REAL", help="Real images, or a file of `evaluate statistics`.")],
    generated: Annotated[Path, typer.Argument(metavar="GENERATED", help="Generated images.")],
    captions: Captions = None,
    encoder: Annotated[Encoder | None, ENCODER] = None,
    weights: Weights = None,
    sha256: Sha = None,
    metrics: Metrics = None,
    protocol: PublishedProtocol = None,
    clip: ClipName = None,
    clip_weights: ClipWeights = None,
    clip_sha256: ClipSha = None,
    hps_weights: HpsWeights = None,
    hps_sha256: HpsSha = None,
    scale: Annotated[ClipScale, typer.Option("--scale", help="Of the CLIP score.")] = "cosine",
    few: Few = False,
    against: Annotated[FidPackage | None, AGAINST] = None,
    interval: Annotated[bool, typer.Option("--interval", help="Of FID; costs 51 distances.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of FD-infinity's subsets.")] = 0,
    batch: Batch = 32,
    device: DeviceName = "auto",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """FID, KID, FD-infinity, precision, recall, CLIP score and HPS v2.1, in one pass over the images.

    The encoder is tf-exact, where none is named.

    --against clean-fid, torch-fidelity or torchmetrics prints that package's FID beside ours, with the same weights,
    and which convention explains a difference.
    """
    named = _names(metrics, options.IMAGE_METRICS)
    if protocol:
        if encoder or clip or against or scale != "cosine" or not set(named or []) <= {"fid", "clip-score"}:
            raise BadInput(
                "--protocol sets --encoder, --clip and --scale, for the metrics fid and clip-score: name none"
            )
        named = named or ["fid", *(["clip-score"] if captions else [])]
    encoder = encoder or "tf-exact"
    if not (clip or protocol) and "clip-score" in (named or []) and encoder not in ("clip", "open-clip"):
        raise BadInput("clip-score: name the backbone, with --clip clip or --clip open-clip")
    _check_there(real, generated)
    from mdrepro.metrics.image import encoders, presets, sets

    head: dict[str, Any] = {"real": str(real), "generated": str(generated)}
    if preset := presets.PRESETS.get(protocol or ""):
        encoder, clip, clip_weights = cast(Encoder, preset.encoder), "open-clip", preset.clip_weights(clip_weights)
        head["protocol"] = preset.text
    if against:
        from mdrepro.metrics.image.peers import fid

        if set(named or ["fid"]) != {"fid"} or clip or captions:
            raise BadInput(f"--against compares FID alone: expected --metrics fid and no captions, got {metrics}")
        ours = _encoder(encoder, weights, sha256, download, encoders.device(device))
        one = fid.against(real, generated, against, ours, sets.Options(few=few, batch=batch))
        _print_compared(head | {"encoder": ours.record()}, [one], {}, as_json)
        return
    row, on = encoders.row(encoder), encoders.device(device)
    wanted = named or ["fid", "kid", *(["clip-score"] if captions or clip else [])]
    texts = _captions(captions, generated) if set(wanted) & {"clip-score", "hps"} else None
    main = judge = preference = None
    if set(wanted) - {"clip-score", "hps"}:
        main = _encoder(encoder, weights, sha256, download, on)
    if "clip-score" in wanted:
        if clip is None and row.family not in ("clip", "open-clip"):
            raise BadInput("clip-score: name the backbone, with --clip clip or --clip open-clip")
        judge = main if clip is None else _encoder(clip, clip_weights, clip_sha256, download, on)
        judge = judge or _encoder(encoder, weights, sha256, download, on)
    if "hps" in wanted:
        preference = _encoder("hps", hps_weights, hps_sha256, download, on)
    how = sets.Options(few=few, interval=interval, seed=seed, scale=scale, batch=batch, spread=True)
    if preset:
        main, judge, texts = preset.prepared(main, judge, texts)
    judges = {"clip": judge, "hps": preference}
    scores = sets.evaluate(real, generated, wanted, encoder=main, captions=texts, options=how, **judges)
    scores = [preset.described(score) for score in scores] if preset else scores
    head |= {name: one.record() if one else None for name, one in ({"encoder": main} | judges).items()}
    _print_scores(head, scores, as_json)


def protocols(
    real: Annotated[Path, typer.Argument(metavar="REAL")],
    generated: Annotated[Path, typer.Argument(metavar="GENERATED")],
    captions: Captions = None,
    weights: Annotated[str | None, typer.Option("--weights", help="FID's Inception: a state dict.")] = None,
    sha256: Sha = None,
    clip: ClipName = None,
    clip_weights: ClipWeights = None,
    clip_sha256: ClipSha = None,
    published: Annotated[
        float | None, typer.Option("--published", help="Rank FID's conventions by their distance to this number.")
    ] = None,
    few: Few = False,
    batch: Batch = 32,
    device: DeviceName = "auto",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """One set under every convention of FID and, with --clip, of CLIP-FID and CLIP score, with the differences.

    --published ranks FID's by their distance to a published number, each with its 95 % interval over images.
    """
    _check_there(real, generated)
    from mdrepro.core.console import columns
    from mdrepro.metrics.image import encoders, sets
    from mdrepro.metrics.image import protocols as conventions

    on = encoders.device(device)
    texts = _captions(captions, generated) if clip else None
    networks: dict[str, Network] = {}
    missing: dict[str, str] = {}
    asked = [("tf-exact", weights, sha256), *([(clip, clip_weights, clip_sha256)] if clip else [])]
    for name, source, digest in asked:
        family = encoders.row(name).family
        try:
            networks[family] = encoders.network(name, source, sha256=digest, download=download, on=on)
        except NotAttempted as error:
            missing[family] = str(error)
    if not networks:
        raise NotAttempted("; ".join(missing.values()))
    how = sets.Options(few=few, interval=published is not None, batch=batch)
    rows = conventions.matrix(real, generated, networks, captions=texts, options=how, device=on)
    ranks = [] if published is None else conventions.ranked(rows, published)
    if as_json:
        record: dict[str, Any] = {
            "real": str(real),
            "generated": str(generated),
            "rows": [row.record() for row in rows],
        }
        record |= {"ranked": [row.record() for row in ranks]} if ranks else {}
        print_json(record | {"not_attempted": missing})
        return
    if ranks:
        cells = [rank.cells() for rank in ranks]
        heads = ("convention", "FID and 95 % interval", f"less {published:g}", "")
        print(columns([heads, *cells], indent="") + "\n")
    lines: list[tuple[str, ...]] = [("group", "convention", "value", "difference", "%")]
    for row in rows:
        percent = "" if row.percent is None else f"{row.percent:+.2f}"
        lines.append((row.group, row.convention, f"{row.score.value:.6g}", f"{row.difference:+.4g}", percent))
    print(columns(lines, indent=""))
    if any(row.score.biased for row in rows):
        print("BIASED: too few images; the numbers are comparable with one another alone")
    for family, reason in missing.items():
        print(f"not attempted: {family}: {reason}")


def statistics(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Images.")],
    out: Annotated[Path, typer.Option("--out", help="A file ending in .safetensors, or in .npz for other packages.")],
    encoder: Annotated[Encoder | None, ENCODER] = None,
    weights: Weights = None,
    sha256: Sha = None,
    protocol: PublishedProtocol = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Every N-th image from the I-th on, from 0.")] = None,
    batch: Batch = 32,
    device: DeviceName = "auto",
    download: Download = False,
) -> None:
    """Mean and covariance of a folder's features, or of one shard of it, into a file that `images` takes as REAL.

    The encoder is tf-exact, where neither it nor a protocol is named.
    """
    from mdrepro.training.runs.commands import shard as part

    _check_out(out)
    if protocol and encoder:
        raise BadInput("--protocol sets --encoder: name one of them")
    at, of = part(shard) or (0, 1)
    if not at < of:
        raise BadInput(f"--shard {shard}: expected 0/{of} to {max(of - 1, 0)}/{of}")
    _check_there(folder)
    from mdrepro.metrics.image import encoders, features, images, presets

    files = images.files(folder)[at::of]
    if not files:
        raise BadInput(f"--shard {shard} holds none of the images of {folder}: expected fewer shards than images")
    preset = presets.PRESETS.get(protocol or "")
    name = preset.encoder if preset else encoder or "tf-exact"
    ready = _encoder(name, weights, sha256, download, encoders.device(device))
    if preset:
        ready = replace(ready, reduction=preset.reduction)
    sums = features.extract(files, {name: ready}, batch=batch, spread=True)[name].statistics
    if not distributed.position()[0]:
        sums.save(out)
    print(f"{sums.n} images, {sums.width} features: {out}")


def combine(
    parts: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of `evaluate statistics`.")],
    out: Annotated[Path, typer.Option("--out", help="A file ending in .safetensors, or in .npz for other packages.")],
) -> None:
    """One file of statistics from those of disjoint shards."""
    _check_out(out)
    _check_there(*parts)
    if len({path.resolve() for path in parts}) < len(parts):
        raise BadInput("a file is named twice: shards must be of different images")
    from mdrepro.metrics.image.statistics import Statistics

    whole = Statistics.combined(map(Statistics.load, parts))
    whole.save(out)
    print(f"{whole.n} images, {whole.width} features: {out}")


def list_encoders(as_json: Json = False) -> None:
    """The encoders: what they are, what their Fréchet distance is called, and where weights come from."""
    from mdrepro.core.console import columns
    from mdrepro.metrics.image.catalogue import DEFAULTS, ENCODERS

    rows = [asdict(row) | {"default": DEFAULTS.get(row.family)} for row in ENCODERS.values()]
    if as_json:
        print_json(rows)
        return
    lines = [("encoder", "distance", "what", "--weights")]
    for row in rows:
        weights = f"{row['source']}; {row['default']}" if row["default"] else row["source"]
        lines.append((row["name"], row["label"], row["what"], weights))
    print(columns(lines, indent=""))


def _print_scores(head: dict[str, Any], scores: Sequence["Score"], as_json: bool) -> None:
    lines = [("metric", "value", ""), *(score.cells() for score in scores)]
    protocols = dict.fromkeys(score.protocol for score in scores if score.value is not None)
    _print(head | {"metrics": [score.record() for score in scores]}, lines, protocols, as_json)


def _print_compared(
    head: dict[str, Any], comparisons: Sequence["Comparison"], missing: Mapping[str, str], as_json: bool
) -> None:
    lines: list[tuple[str, ...]] = [("metric", "mdrepro", "other", "difference", "package")]
    for one in comparisons:
        theirs = "infinite" if one.theirs is None else f"{one.theirs:.7g}"
        difference = "" if one.difference is None else f"{one.difference:+.3g}"
        lines.append((one.metric, f"{one.ours:.7g}", theirs, difference, one.package))
    notes = [f"{one.metric}: {one.verdict}" for one in comparisons]
    notes += [f"{name}: not attempted: {reason}" for name, reason in missing.items()]
    record = head | {"comparisons": [one.record() for one in comparisons], "not_attempted": missing}
    _print(record, lines, notes, as_json)


def _print(record: dict[str, Any], lines: Sequence[Sequence[str]], notes: Iterable[str], as_json: bool) -> None:
    from mdrepro.core.console import columns

    if as_json:
        print(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False))
        return
    print(columns(lines, indent=""))
    for note in notes:
        print(f"  {note}")


def _names(text: str | None, known: Sequence[str]) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise BadInput("--metrics is empty: expected names with commas between them")
    return [check("metric", name, known) for name in names]


def _check_there(*paths: Path) -> None:
    """Raises BadInput for a missing folder or file, before torch is imported to read it."""
    if gone := [path for path in paths if not path.exists()]:
        raise BadInput(f"{gone[0]}: no such folder or file")


def _encoder(name: str, source: str | None, sha256: str | None, download: bool, on: "torch.device") -> "Loaded":
    from mdrepro.metrics.image import encoders

    if name == "shapes" and source is None:
        from mdrepro.training.runs import store

        run = store.find("shapes-reader")
        if run is None:
            raise NotAttempted("the scene reader is not trained: mdrepro train shapes-reader")
        source = str(run.folder / "reader")
    return encoders.load(name, source, sha256=sha256, download=download, on=on)


def _captions(file: Path | None, generated: Path) -> list[str] | None:
    """A caption for each generated image: from ``--captions``, or from the manifest that `mdrepro generate` wrote."""
    from mdrepro.data import image_captions
    from mdrepro.metrics.image import images
    from mdrepro.sampling.manifest import MANIFEST, Manifest

    if file is None:
        if not (generated / MANIFEST).is_file():
            return None
        prompts = {entry.file: entry.prompt for entry in Manifest.read(generated).images}
        return image_captions.by_name(prompts, generated / MANIFEST, images.files(generated))
    return image_captions.read(file, images.files(generated))


def _check_out(out: Path) -> None:
    if out.suffix not in STATISTICS or not out.parent.is_dir():
        raise BadInput(f"--out {out}: expected a file in an existing folder that ends in {' or '.join(STATISTICS)}")


COMMANDS: dict[str, Callable[..., None]] = {
    "reconstruction": reconstruction,
    "images": image_sets,
    "protocols": protocols,
    "statistics": statistics,
    "combine": combine,
    "encoders": list_encoders,
}
for name, function in COMMANDS.items():
    register(app, name, function, "evaluate")

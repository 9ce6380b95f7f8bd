"""Examples that each command's ``--help`` ends with. A test parses every one."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "list": ("mdrepro list", "mdrepro list --planned --json"),
    "show": ("mdrepro show mobilediffusion-unet-cost", "mdrepro show mobilediffusion-steps --run latest"),
    "runs": ("mdrepro runs mobilediffusion-vae-reconstruction",),
    "reproduce": (
        "mdrepro reproduce",
        "mdrepro reproduce mobilediffusion-unet-cost --force",
        "mdrepro reproduce mobilediffusion-vae-reconstruction --set steps=50,100 --set seed=0..4 --dry-run",
        "mdrepro reproduce --tier proxy --executor slurm --cores 8",
    ),
    "report": ("mdrepro report", "mdrepro report --tier quick --out site"),
    "export-table": ("mdrepro export-table mobilediffusion-unet-cost --format latex",),
    "publish": ("mdrepro publish mobilediffusion-unet-cost", "mdrepro publish --checkpoints shapes-1 shapes-1-seed1"),
    "verify": ("mdrepro verify", "mdrepro verify --tier quick --json"),
    "doctor": ("mdrepro doctor",),
    "cost": ("mdrepro cost sd15 mobilediffusion --details", "mdrepro cost --system mobilediffusion --json"),
    "train": (
        "mdrepro train --list",
        "mdrepro train shapes-reader --max-seconds 60",
        "mdrepro train shapes-base --seeds 3",
        "mdrepro train shapes-base --set loop.steps=100",
    ),
    "generate": (
        "mdrepro generate shapes-1 --prompts prompts.txt --out images",
        "mdrepro generate shapes-base --prompts prompts.txt --out images --steps 8 --sampler dpm++",
    ),
    "export": (
        "mdrepro export shapes-1 --precision int8 --out out",
        "mdrepro export mobilediffusion --component unet --target coreml --precision palette8 --out out",
    ),
    "publish-model": (
        "mdrepro publish-model shapes-4 --to models/shapes-4",
        "mdrepro publish-model shapes-4 --to models/shapes-4 --hub OWNER/NAME",
    ),
    "latency": (
        "mdrepro latency out/unet-int8.tflite --runs 20",
        "mdrepro latency out/unet-int8.tflite --bundle phone",
        "mdrepro latency report.yaml --import xcode --out records.json",
    ),
    "init": ("mdrepro init work",),
    "evaluate reconstruction": ("mdrepro evaluate reconstruction originals decoded --metrics psnr,ssim",),
    "evaluate images": (
        "mdrepro evaluate images real generated --metrics fid,kid",
        "mdrepro evaluate images real generated --against clean-fid",
        "mdrepro evaluate images real.npz generated --protocol bk-sdm --captions metadata.jsonl",
    ),
    "evaluate protocols": ("mdrepro evaluate protocols real generated --weights inception.pth",),
    "evaluate statistics": ("mdrepro evaluate statistics real --shard 0/4 --out real-0.safetensors",),
    "evaluate combine": ("mdrepro evaluate combine real-0.safetensors real-1.safetensors --out real.safetensors",),
    "evaluate encoders": ("mdrepro evaluate encoders",),
    "audit claims": ("mdrepro audit claims",),
    "audit unmeasured": ("mdrepro audit unmeasured --json",),
    "audit fp16": ("mdrepro audit fp16 shapes-1 --component decoder",),
}
"""By the command's words after ``mdrepro``."""

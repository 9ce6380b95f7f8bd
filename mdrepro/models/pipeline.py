"""From prompts to images: a diffusers pipeline for MobileDiffusion, SnapFusion and SD-1.5."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from mdrepro.core.errors import BadInput, check
from mdrepro.diffusion.guidance import guidance_embedding, guidance_width
from mdrepro.diffusion.protocols import Generators, Scheduler
from mdrepro.models import latents as convention
from mdrepro.models import text
from mdrepro.models.safe import SafetensorsOnly, check_vocabulary

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
FORMER_MODULES = {
    "mdrepro.models.unet": "mdrepro.models.mobilediffusion.unet",
    "mdrepro.models.vae": "mdrepro.models.mobilediffusion.vae",
    "mdrepro.models.evolvable": "mdrepro.models.snapfusion.evolvable",
    "mdrepro.models.renoise": "mdrepro.diffusion.renoise",
}
"""Where the classes of saved pipelines' parts were before, as pipelines saved then name them, and where they are."""
Pixels = Tensor | NDArray[np.float32] | list[Image.Image]
Callback = Callable[["MobileDiffusionPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


class MobileDiffusionPipeline(SafetensorsOnly, DiffusionPipeline):
    """Text to image with any denoiser, autoencoder and scheduler that fit together.

    Args:
        vae: this project's Autoencoder, or a diffusers one.
        text_encoder, tokenizer: CLIP's text model, of any size; see `mdrepro.models.text`.
        unet: MobileDiffusionUNet, EvolvableUNet, or a UNet2DConditionModel such as SD-1.5's.
        scheduler: diffusers', or `RenoisingScheduler` for one-step models; its config says what the denoiser predicts.
        default_steps, default_guidance: how the checkpoint is meant to be run, unless a call says otherwise. Saved.

    Raises BadInput where denoiser and autoencoder, or denoiser and text encoder, differ in width, or the tokenizer has
    tokens that the text encoder does not know.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _callback_tensor_inputs = ("latents", "prompt_embeds", "negative_prompt_embeds")

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: ModelMixin,
        scheduler: Scheduler,
        default_steps: int = 50,
        default_guidance: float = 7.5,
    ) -> None:
        super().__init__()
        for what, left, right in (
            ("latent channels of unet and vae", unet.config.in_channels, vae.config.latent_channels),
            ("text width of unet and text_encoder", unet.config.cross_attention_dim, text_encoder.config.hidden_size),
        ):
            if left != right:
                raise BadInput(f"{what} differ: {left} and {right}")
        check_vocabulary(tokenizer, text_encoder.config.vocab_size)
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.register_to_config(default_steps=default_steps, default_guidance=default_guidance)
        self.interrupt = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Self:
        """A saved pipeline, in eval mode, from safetensors; see `SafetensorsOnly.from_pretrained`."""
        # diffusers takes components from modules that are imported already, and looks for their base class there
        for former, name in FORMER_MODULES.items():
            module = sys.modules.setdefault(former, importlib.import_module(name))
            vars(module).setdefault("ModelMixin", ModelMixin)
        return super().from_pretrained(pretrained_model_name_or_path, **options)

    @property
    def size_multiple(self) -> int:
        """Height and width of images must be multiples of this, px."""
        return convention.factor(self.vae) * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Pixels]:
        """Make images.

        Noise is drawn in float32 whatever the type of the weights. Each image's generator is used for that image alone:
        its noise is bit-equal at any batch size, and the image is the same to float rounding.

        Args:
            prompt: one text, or a list of them.
            negative_prompt: what guidance leads away from: one text for all, or one each; empty by default.
            height, width: px, multiples of `size_multiple`; None for the size that the denoiser was made for.
            num_inference_steps: evaluations of the denoiser; None for the checkpoint's own.
            guidance_scale: w in v = w v(text) - (w - 1) v(negative), as in SnapFusion; 1 is none and costs one
                branch in place of two, as a denoiser does that takes w as an input; None for the checkpoint's own.
            eta: share of noise in DDIM's steps; used by schedulers that have it.
            generator: one for each image, or a single one where a single image is made.
            latents: noise of variance 1 in place of drawn, (images, channels, height / 8, width / 8).
            prompt_embeds, negative_prompt_embeds: text features in place of texts, (prompts, tokens, width).
            output_type: ``pil``; ``np``: (images, height, width, 3), 0..1; ``pt``: (images, 3, height, width), 0..1;
                ``latent``: the scaled latents.
            callback_on_step_end: called as ``(pipeline, step, timestep, tensors)`` after each step, with the tensors
                that ``callback_on_step_end_tensor_inputs`` names (latents, prompt_embeds, negative_prompt_embeds);
                those it returns replace the old ones. It may set ``pipeline.interrupt`` to end after that step.

        Raises BadInput where an argument is not allowed, or the scheduler's first timestep is far from pure noise (as
        DDIM's is at one step with ``timestep_spacing="leading"``).
        """
        check("output_type", output_type, OUTPUT_TYPES)
        for name in callback_on_step_end_tensor_inputs:
            check("callback tensor", name, self._callback_tensor_inputs)
        steps = self.config.default_steps if num_inference_steps is None else num_inference_steps
        guidance = self.config.default_guidance if guidance_scale is None else guidance_scale
        if steps < 1 or guidance < 1:
            raise BadInput(f"{steps} steps at guidance {guidance}: expected 1 step or more, guidance 1 (none) or more")

        device, width_w = self._execution_device, guidance_width(self.unet)
        guided = guidance != 1 and width_w is None
        if width_w is not None and not (negative_prompt is None and negative_prompt_embeds is None):
            raise BadInput("this denoiser takes the guidance scale as an input: there can be no negative prompt")
        text_btc = self._embeds(prompt, prompt_embeds, "prompt")
        count = len(text_btc) * num_images_per_prompt
        text_btc = text_btc.repeat_interleave(num_images_per_prompt, dim=0)
        null_btc = None
        if guided:
            given = "" if negative_prompt is None and negative_prompt_embeds is None else negative_prompt
            null_btc = self._embeds(given, negative_prompt_embeds, "negative_prompt")
            if count % len(null_btc):
                raise BadInput(f"{len(null_btc)} negative prompts for {count // num_images_per_prompt} prompts")
            null_btc = null_btc.repeat_interleave(count // len(null_btc), dim=0)
        generators = self._generators(generator, count)

        self.scheduler.set_timesteps(steps, device=device)
        self._check_start()
        shape = self._latent_shape(count, height, width)
        x_bchw = self._noise(shape, generators, latents, device) * self.scheduler.init_noise_sigma
        known = inspect.signature(self.scheduler.step).parameters
        extra = {name: value for name, value in (("eta", eta), ("generator", generators)) if name in known}

        self.interrupt = False
        with self.progress_bar(total=len(self.scheduler.timesteps)) as progress:
            for index, timestep in enumerate(self.scheduler.timesteps):
                prediction = self._predict(x_bchw, timestep, text_btc, null_btc, guidance)
                x_bchw = self.scheduler.step(prediction, timestep, x_bchw, **extra, return_dict=False)[0]
                if callback_on_step_end is not None:
                    tensors = {"latents": x_bchw, "prompt_embeds": text_btc, "negative_prompt_embeds": null_btc}
                    asked = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    tensors |= callback_on_step_end(self, index, timestep, asked) or {}
                    x_bchw, text_btc = tensors["latents"], tensors["prompt_embeds"]
                    null_btc = tensors["negative_prompt_embeds"]
                progress.update()
                if self.interrupt:
                    break
        images = self._finish(x_bchw, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """See `mdrepro.models.text.encode`."""
        return text.encode(self.tokenizer, self.text_encoder, prompts)

    def _embeds(self, prompt: str | Sequence[str] | None, embeds: Tensor | None, name: str) -> Tensor:
        if (prompt is None) == (embeds is None):
            raise BadInput(f"give {name} or {name}_embeds, and not both")
        if embeds is not None:
            return embeds.to(self._execution_device)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
        if not prompts or not all(isinstance(one, str) for one in prompts):
            raise BadInput(f"{name} is {prompt!r}: expected a text, or a list of texts that is not empty")
        return self.encode_prompt(prompts)

    def _generators(self, generator: Generators, count: int) -> list[torch.Generator] | None:
        if generator is None:
            return None
        generators = [generator] if isinstance(generator, torch.Generator) else list(generator)
        if len(generators) != count:
            raise BadInput(
                f"{len(generators)} generator(s) for {count} images: give one each, so that no image depends "
                f"on another: [torch.Generator().manual_seed(seed + i) for i in range({count})]"
            )
        return generators

    def _latent_shape(self, count: int, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        factor, step = convention.factor(self.vae), self.size_multiple
        size = self.unet.config.sample_size
        default_height, default_width = (side * factor for side in ((size, size) if isinstance(size, int) else size))
        height, width = height or default_height, width or default_width
        if min(height, width) < step or height % step or width % step:
            raise BadInput(f"{height}x{width} px: expected multiples of {step}")
        return count, self.unet.config.in_channels, height // factor, width // factor

    def _noise(
        self, shape: tuple[int, ...], generators: Generators, given: Tensor | None, device: torch.device
    ) -> Tensor:
        if given is None:
            return randn_tensor(shape, generator=generators, device=device, dtype=torch.float32)
        if given.shape != shape:
            raise BadInput(f"latents have shape {tuple(given.shape)}: expected {shape}")
        return given.to(device, torch.float32)

    def _check_start(self) -> None:
        first, total = float(self.scheduler.timesteps[0]), self.scheduler.config.num_train_timesteps
        if first < total / 2:
            kind, steps = type(self.scheduler).__name__, len(self.scheduler.timesteps)
            raise BadInput(
                f"{kind} starts {steps} step(s) at timestep {first:g} of {total}, where there is little noise, but an "
                'image starts as pure noise: use timestep_spacing="trailing", or RenoisingScheduler for one-step models'
            )

    def _predict(
        self, x_bchw: Tensor, timestep: Tensor, text_btc: Tensor, null_btc: Tensor | None, guidance: float
    ) -> Tensor:
        """The denoiser's prediction, guided, in float32."""
        x_bchw = self.scheduler.scale_model_input(x_bchw, timestep)
        if null_btc is not None:
            x_bchw, text_btc = torch.cat([x_bchw, x_bchw]), torch.cat([null_btc, text_btc])
        kind, width = self.unet.dtype, guidance_width(self.unet)
        options: dict[str, Tensor] = {}
        if width is not None:
            guidance_b = torch.full((len(x_bchw),), guidance, device=x_bchw.device)
            options["timestep_cond"] = guidance_embedding(guidance_b, width).to(kind)
        out = self.unet(x_bchw.to(kind), timestep, text_btc.to(kind), return_dict=False, **options)[0]
        if null_btc is None:
            return out.float()
        null, conditional = out.float().chunk(2)
        return null + guidance * (conditional - null)

    def _finish(self, x_bchw: Tensor, output_type: str) -> Pixels:
        if output_type == "latent":
            return x_bchw
        if output_type == "pil":
            pixels = convention.to_image(self.vae, x_bchw, "uint8").permute(0, 2, 3, 1).cpu().numpy()
            return [Image.fromarray(one) for one in pixels]
        unit = convention.to_image(self.vae, x_bchw, "0..1")
        return unit if output_type == "pt" else unit.permute(0, 2, 3, 1).cpu().numpy()

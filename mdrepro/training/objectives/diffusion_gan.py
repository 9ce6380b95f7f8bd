"""The diffusion-GAN that makes a denoiser one-step (UFOGen, arXiv 2311.09257), as MobileDiffusion uses it.

Generator and discriminator both begin as the trained denoiser. From x_t the generator predicts x0'; the forward process
takes x0' to a lower level, t - jump, where the discriminator compares it with real data at that level. Since the noise
of the real x_{t-jump} is not that of x_t, the adversarial term matches the distribution of x0 itself: one step will do.

What the papers leave open is taken from the reference code of UFOGen's first author (`UFO_DiT/train_ufo.py` of
xuyanwu/SIDDMs-UFOGen): gamma_t such that the reconstruction term is the error in e, lambda 1, cross-entropy with logits
held within 0.5, jump T / 4, t uniform, the discriminator trained in every second step. These are the defaults. From a
v-model at zero terminal SNR they do not make one step work (docs/training.md): under t = T - 1 the level T - T / 4
hides the modes, and the error in e has weight 0. What does: a level drawn between 0 and t (as in Diffusion-GAN, arXiv
2206.02262, and DMD2, arXiv 2405.14867), the error in v with a small weight, and R3GAN's loss (arXiv 2501.05441):
relativistic, with gradient penalties on real and fake. The discriminator has no guidance, without which texts are
followed worse; `DiffusionGAN.guided` adds it.
"""

from dataclasses import KW_ONLY, InitVar, dataclass

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from mdrepro.core.errors import BadInput, check
from mdrepro.data.examples import Batch
from mdrepro.diffusion.noise import NoiseSchedule, per_sample, predict
from mdrepro.diffusion.protocols import Scheduler
from mdrepro.diffusion.renoise import RenoisingScheduler
from mdrepro.models.mobilediffusion.discriminator import LOGITS, Discriminator
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Networks, Phase
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import DENOISER, Kind, register
from mdrepro.training.objectives.progressive import predict_guided

TIMES = ("uniform", "jumps")
INF = float("inf")
RECONSTRUCTIONS = ("epsilon", "x0", "v")
LOSSES = ("cross-entropy", "relativistic")


def generator_adversarial(fake: Tensor, hold: float | None = None) -> Tensor:
    """-log D(fake), the non-saturating loss (arXiv 1406.2661), a scalar; no gradient from logits above ``hold``.

    Given D(fake) - D(real) it is the relativistic loss (arXiv 1807.00734); given the contrary, the discriminator's.
    """
    return F.softplus(-fake if hold is None else -fake.clamp(max=hold)).mean()


def discriminator_adversarial(real: Tensor, fake: Tensor, hold: float | None = None) -> Tensor:
    """-log D(real) - log(1 - D(fake)), a scalar; no gradient where logits are right beyond ``hold``."""
    if hold is not None:
        real, fake = real.clamp(max=hold), fake.clamp(min=-hold)
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def gradient_penalty(logits: Tensor, moved: Tensor, radius: float) -> Tensor:
    """||dD/dx||^2, a scalar, mean over logits, without a second derivative: E (D(x + r e) - D(x))^2 / r^2.

    Args:
        logits, moved: D(x) and D(x + r e), e standard normal; both (b, ...).
        radius: r, in units of x. Exact for a linear D in expectation over e (the form is that of arXiv 2501.08316).
    """
    return (moved - logits).square().mean() / radius**2


def reconstruction_loss(
    schedule: NoiseSchedule, x0: Tensor, generated: Tensor, t_b: Tensor, kind: str, cap: float = INF
) -> Tensor:
    """gamma_t ||x0 - x0'||^2, a scalar.

    gamma_t is a_t^2 / s_t^2 for ``epsilon`` (the error in e), 1 / s_t^2 for ``v`` (the error in v), 1 for ``x0``; at
    most ``cap``.
    """
    snr_b = schedule.snr(t_b)
    gamma_b = {"epsilon": snr_b, "v": snr_b + 1, "x0": torch.ones_like(snr_b)}[kind]
    return torch.mean(gamma_b.clamp(max=cap) * per_sample((x0 - generated).square()))


@dataclass(eq=False)
class DiffusionGAN(Networks):
    """Objective: phases ``discriminator`` and ``generator``.

    Batches need ``latent`` and ``text``. Raises BadInput for other values.

    Args:
        generator: the trained denoiser; predicts what the scheduler's config says.
        discriminator: ``Discriminator.from_unet(generator)``; called with a noisy latent, its time and the text.
        scheduler: for its noise levels and prediction type.
        jumps: into how many jumps, from 1, T is cut; `RenoisingScheduler` with as many steps or fewer samples.
        reconstruction: lambda, the weight of the reconstruction term.
        gamma, cap: its weight in t, ``epsilon``, ``v`` or ``x0``, and the bound of it; see `reconstruction_loss`.
        adversarial: weight of the generator's adversarial term.
        hold: bound of the logits in the losses; None leaves them free.
        every: the discriminator is trained in every so many steps.
        times: t from all times (``uniform``) or only from those that the sampler visits (``jumps``).
        last: share, 0 to 1, of samples whose t is T - 1, where the one-step model works; the others follow ``times``.
        drawn: k: the discriminator's level is drawn, u^k t with u uniform in [0, 1), nearer to 0 for larger k; None is
            UFOGen's own, t - T / jumps.
        loss: ``cross-entropy``, or ``relativistic``, where ``hold`` bounds the difference of the logits.
        penalty, radius: weight of `gradient_penalty` on real and on fake samples at their level, and its r; 0: none.
        guidance: weight of the term of `DiffusionGAN.guided`; 0: none.
        teacher, null_text: a copy of the trained denoiser, and features of the empty text, (tokens, width); both are
            needed with ``guidance`` alone.
    """

    generator: InitVar[nn.Module]
    discriminator: InitVar[nn.Module]
    scheduler: InitVar[Scheduler]
    teacher: InitVar[nn.Module | None] = None
    null_text: InitVar[Tensor | None] = None
    _: KW_ONLY
    jumps: int = 4
    reconstruction: float = 1.0
    gamma: str = "epsilon"
    adversarial: float = 1.0
    hold: float | None = 0.5
    every: int = 2
    times: str = "uniform"
    last: float = 0.0
    cap: float = INF
    drawn: float | None = None
    loss: str = "cross-entropy"
    penalty: float = 0.0
    radius: float = 0.05
    guidance: float = 0.0

    def __post_init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        scheduler: Scheduler,
        teacher: nn.Module | None,
        null_text: Tensor | None,
    ) -> None:
        check("gamma", self.gamma, RECONSTRUCTIONS)
        check("choice of times", self.times, TIMES)
        check("loss", self.loss, LOSSES)
        if not (0 <= self.last <= 1 and min(self.jumps, self.every) >= 1):
            raise BadInput(
                f"last {self.last}, jumps {self.jumps}, every {self.every}: they must be a share from 0 to 1, and "
                "numbers from 1"
            )
        positive = {"cap": self.cap, "drawn": 1.0 if self.drawn is None else self.drawn, "radius": self.radius}
        from_0 = {"penalty": self.penalty, "guidance": self.guidance}
        if not (min(positive.values()) > 0 and min(from_0.values()) >= 0):
            raise BadInput(f"{positive}, {from_0}: the first three must be positive, the others from 0")
        self.keep({"generator": generator, "discriminator": discriminator})
        if self.guidance:
            if teacher is None or null_text is None:
                raise BadInput(f"guidance {self.guidance}: it needs a teacher and features of the empty text")
            self.frozen, self.empty_tc = {"teacher": teacher}, null_text
        self.schedule = NoiseSchedule.from_scheduler(scheduler)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return Phase("discriminator", ("discriminator",), every=self.every), Phase("generator", ("generator",))

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x0, text_btc, schedule = batch["latent"], batch["text"], self.schedule
        shape = x0.shape[1:]
        t_b = self._times(draws)
        lower_b = self._lower(t_b, draws)
        x_t = schedule.add_noise(x0, draws.normal(*shape), t_b)
        with torch.set_grad_enabled(phase == "generator"):
            generated = self._generate(x_t, t_b, text_btc)
            fake = schedule.add_noise(generated, draws.normal(*shape), lower_b)
        relativistic = self.loss == "relativistic"
        if phase == "discriminator" or relativistic:
            real = schedule.add_noise(x0, draws.normal(*shape), lower_b)
        if phase == "discriminator":
            both, twice = torch.cat([real, fake]), (lower_b.repeat(2), text_btc.repeat(2, 1, 1))
            logits = self._judge(both, *twice)
            for_real, for_fake = logits.chunk(2)
            terms = {"real": for_real.mean(), "fake": for_fake.mean()}
            if relativistic:
                loss = generator_adversarial(for_real - for_fake, self.hold)
            else:
                loss = discriminator_adversarial(for_real, for_fake, self.hold)
            if self.penalty:
                noise = torch.cat([draws.normal(*shape), draws.normal(*shape)])
                moved = self._judge(both + self.radius * noise, *twice)
                terms["penalty"] = 2 * gradient_penalty(logits, moved, self.radius)  # the sum of real's and fake's
                loss = loss + self.penalty * terms["penalty"]
            return {"loss": loss} | terms
        logits = self._judge(fake, lower_b, text_btc)
        if relativistic:
            with torch.no_grad():
                for_real = self._judge(real, lower_b, text_btc)
            logits = logits - for_real
        terms = {
            "adversarial": generator_adversarial(logits, self.hold),
            "reconstruction": reconstruction_loss(schedule, x0, generated, t_b, self.gamma, self.cap),
        }
        loss = self.adversarial * terms["adversarial"] + self.reconstruction * terms["reconstruction"]
        if self.guidance:
            terms["guidance"] = self.guided(generated, fake, lower_b, text_btc)
            loss = loss + self.guidance * terms["guidance"]
        return {"loss": loss} | terms

    def guided(self, generated: Tensor, x_s: Tensor, s_b: Tensor, text_btc: Tensor) -> Tensor:
        """Classifier score distillation (arXiv 2310.19415), a scalar; ``x_s`` is ``generated`` at the levels ``s_b``.

        `reconstruction_loss` of x0' to x0' + x0(teacher, x_s, text) - x0(teacher, x_s, empty text), which is fixed.
        Its gradient follows log p(text | x_s), the direction that classifier-free guidance adds at any w.
        """
        schedule = self.schedule
        with torch.no_grad():
            twice_b = torch.full((len(x_s),), 2.0, device=x_s.device)  # 2 v(text) - v(empty)
            predictions = predict_guided(self.frozen["teacher"], x_s, s_b, text_btc, self.empty_tc, twice_b)
            without, beyond = (schedule.x0(prediction, x_s, s_b) for prediction in predictions)
            target = generated + beyond - without
        return reconstruction_loss(schedule, target, generated, s_b, self.gamma, self.cap)

    def _times(self, draws: Draws) -> Tensor:
        if self.times == "jumps":
            jump_b = draws.integers(0, self.jumps)
            t_b = self.schedule.trailing(self.jumps).to(jump_b.device)[jump_b]
        else:
            t_b = draws.integers(1, self.schedule.total)
        if not self.last:
            return t_b
        return torch.where(draws.uniform() < self.last, self.schedule.total - 1, t_b)

    def _lower(self, t_b: Tensor, draws: Draws) -> Tensor:
        """The level at which the discriminator judges what was made from t, (b,)."""
        if self.drawn is None:
            return (t_b - self.schedule.total // self.jumps).clamp(min=0)
        return (draws.uniform() ** self.drawn * t_b).long()

    def _generate(self, x_t: Tensor, t_b: Tensor, text_btc: Tensor) -> Tensor:
        return self.schedule.x0(predict(self.networks["generator"], x_t, t_b, text_btc), x_t, t_b)

    def _judge(self, x: Tensor, t_b: Tensor, text_btc: Tensor) -> Tensor:
        return self.networks["discriminator"](x, t_b, text_btc).float()


def _discriminator(unet: ModelMixin, *, logits: str = LOGITS[0]) -> Discriminator:
    return Discriminator.from_unet(unet, logits)


def _build(inputs: Inputs) -> Training:
    unet, options = inputs.denoiser(), inputs.options_of(DiffusionGAN)
    discriminator = _discriminator(unet, **inputs.options_of(_discriminator))
    guided = (inputs.teacher(), inputs.null_text) if options.get("guidance") else ()
    objective = DiffusionGAN(unet, discriminator, inputs.scheduler, *guided, **options)
    sampler = RenoisingScheduler.from_config(inputs.scheduler.config)
    return inputs.on_latents(objective, network="generator", scheduler=sampler)


register(Kind(name="gan", build=_build, needs=DENOISER, options=(DiffusionGAN, _discriminator), sampler="renoise"))

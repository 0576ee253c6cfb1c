"""Idefics of transformers 5 at the same shape; which weights it has from ours says ``names.for_idefics``."""

from pathlib import Path

import torch
from names import for_idefics
from setting import (
    GATE,
    LATENTS,
    Asked,
    Job,
    Seconds,
    Shape,
    Stopwatch,
    ask,
    candidates,
    load_weights,
    peak_mb,
    read_job,
    tell,
)
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    IdeficsConfig,
    IdeficsForVisionText2Text,
)
from transformers.modeling_outputs import BaseModelOutput

RANKED = 10  # candidates that are scored; the time of all is their multiple


class Tower(nn.Module):
    """The tower that all systems have, in the place of Idefics' own."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(CLIPVisionConfig(**shape.vision()))

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.tower(pixel_values).last_hidden_state[:, 1:])


def make_model(shape: Shape) -> IdeficsForVisionText2Text:
    config = IdeficsConfig(
        **shape.text(),
        cross_layer_interval=shape.every,
        alpha_initializer="ones",
        use_resampler=True,
        vision_config={"embed_dim": shape.vision_width, "num_hidden_layers": 0},
        perceiver_config={
            "resampler_n_latents": LATENTS,
            "resampler_depth": 6,
            "resampler_n_heads": 8,
            "resampler_head_dim": 64,
        },
    )
    torch.manual_seed(0)
    model = IdeficsForVisionText2Text(config)
    model.model.vision_model = Tower(shape)
    for block in model.model.gated_cross_attn_layers:
        nn.init.constant_(block.alpha_cross_attn, GATE)
        nn.init.constant_(block.alpha_dense, GATE)
    model.generation_config.eos_token_id = None
    return model.requires_grad_(False).eval()


def load(model: IdeficsForVisionText2Text, folder: Path) -> None:
    """Take what the layouts have in common; the gated blocks keep what was drawn for them."""
    left = [name for name in load_weights(model, folder, for_idefics) if ".gated_cross_attn_layers." not in name]
    if left:
        raise SystemExit(f"ours has no weights for {len(left)} of Idefics, first {left[0]}")


def make_inputs(job: Job, asked: Asked) -> dict[str, Tensor]:
    """Ids and mask [1, T], pictures [1, N, 3, h, w], and for each token the latest picture [1, T, N]."""
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    pixels = processor(asked.images, return_tensors="pt")["pixel_values"]
    ids = torch.tensor([asked.ids], device=job.device)
    latest = (ids == job.shape.image_token).cumsum(1)
    numbers = torch.arange(1, len(asked.images) + 1, device=job.device)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels[None].to(job.device, job.torch_dtype),
        "image_attention_mask": (latest[..., None] == numbers).long(),
    }


def generate(model: IdeficsForVisionText2Text, job: Job, asked: Asked, tokens: int) -> Stopwatch:
    stopwatch = Stopwatch()
    model.generate(**make_inputs(job, asked), max_new_tokens=tokens, do_sample=False, streamer=stopwatch)
    return stopwatch


@torch.inference_mode()
def rank(model: IdeficsForVisionText2Text, job: Job, asked: Asked, classes: list[list[int]]) -> list[float]:
    """Log-probabilities of classes, each read behind the whole prompt."""
    scores = []
    for tokens in classes:
        inputs = make_inputs(job, Asked(asked.ids + tokens, asked.images))
        logits = model(**inputs, use_cache=False, logits_to_keep=len(tokens) + 1).logits[0, :-1]
        scores.append(float(logits.log_softmax(-1).gather(1, torch.tensor(tokens, device=job.device)[:, None]).sum()))
    return scores


def measure(job: Job) -> None:
    """It keeps nothing of earlier prompts, so that first tokens behind known demonstrations come no sooner."""
    model = make_model(job.shape)
    load(model, job.weights)
    model = model.to(job.device, job.torch_dtype)
    generate(model, job, ask(job.shape, 1, name="warm-up"), 4)
    result: dict[str, float] = {}
    for pictures in job.pictures:
        stopwatch = generate(model, job, ask(job.shape, pictures), job.tokens)
        result[f"tokens_per_s_{pictures}"] = stopwatch.rate
        result[f"first_token_s_{pictures}"] = stopwatch.first_token
        result[f"peak_mb_{pictures}"] = peak_mb(job.device)
    classes = candidates(job)
    some = classes[:RANKED]
    with Seconds() as seconds:
        rank(model, job, ask(job.shape, job.rank_pictures, name="rank"), some)
    tell(result | {"rank_s": seconds.passed * len(classes) / len(some), "rank_peak_mb": peak_mb(job.device)})


if __name__ == "__main__":
    measure(read_job())

"""OpenFlamingo 2.0.1 beside a transformers that it runs with: the check against ours, and what it takes to answer."""

import importlib.util
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from names import for_openflamingo
from safetensors.torch import load_file
from setting import Asked, Job, Seconds, Shape, Stopwatch, ask, candidates, load_weights, peak_mb, read_job, tell
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

TOLERANCE = 1e-3  # of logits in float32


def import_flamingo() -> SimpleNamespace:
    """The model alone: the packages' own ``__init__`` import open_clip, which needs torchvision."""
    spec = importlib.util.find_spec("open_flamingo")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("open-flamingo is not in this environment; `make bench-peers` builds one that has it")
    root = Path(next(iter(spec.submodule_search_locations)))
    for name, folder in (("open_flamingo", root), ("open_flamingo.src", root / "src")):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    from open_flamingo.src.flamingo import Flamingo
    from open_flamingo.src.flamingo_lm import FlamingoLMMixin
    from open_flamingo.src.utils import extend_instance

    return SimpleNamespace(Flamingo=Flamingo, FlamingoLMMixin=FlamingoLMMixin, extend_instance=extend_instance)


class Tower(nn.Module):
    """The tower that all systems have, with the outputs of open_clip: pooled ones, which nobody reads, and patches."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(CLIPVisionConfig(**shape.vision()))

    def forward(self, pixels: Tensor) -> tuple[None, Tensor]:
        return None, self.tower(pixels).last_hidden_state[:, 1:]


def load_model(job: Job) -> Any:
    """As its ``create_model_and_transforms`` does, with the shared weights."""
    source = import_flamingo()
    language = LlamaForCausalLM(LlamaConfig(**job.shape.text()))
    source.extend_instance(language, source.FlamingoLMMixin)
    language.set_decoder_layers_attr_name("model.layers")
    model = source.Flamingo(
        SimpleNamespace(visual=Tower(job.shape)),
        language,
        eoc_token_id=0,
        media_token_id=job.shape.image_token,
        vis_dim=job.shape.vision_width,
        cross_attn_every_n_layers=job.shape.every,
    )
    second_names = ("lang_encoder.old_decoder_blocks.", "lang_encoder.gated_cross_attn_layers.")
    if left := [name for name in load_weights(model, job.weights, renamed) if not name.startswith(second_names)]:
        raise SystemExit(f"ours has no weights for {len(left)} of OpenFlamingo, first {left[0]}")
    return model.requires_grad_(False).eval().to(job.device, job.torch_dtype)


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Transformers before 5 has the tower one level deeper."""
    inner = "vision_encoder.tower."
    return {name.replace(inner, f"{inner}vision_model."): w for name, w in for_openflamingo(weights).items()}


class Inputs:
    """A prompt as its evaluation prepares it: ids and mask [1, T], pictures [1, N, 1, 3, h, w]."""

    def __init__(self, job: Job, asked: Asked) -> None:
        processor = CLIPImageProcessor(do_resize=False, do_center_crop=False)
        pixels = processor(asked.images, return_tensors="pt")["pixel_values"]
        self.pictures = pixels[None, :, None].to(job.device, job.torch_dtype)
        self.ids = torch.tensor([asked.ids], device=job.device)
        self.mask = torch.ones_like(self.ids)


@torch.inference_mode()
def generate(model: Any, job: Job, asked: Asked, tokens: int) -> tuple[list[int], Stopwatch]:
    stopwatch = Stopwatch()
    inputs = Inputs(job, asked)
    output = model.generate(
        inputs.pictures,
        inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        streamer=stopwatch,
    )
    return output[0, inputs.ids.shape[1] :].tolist(), stopwatch


@torch.inference_mode()
def rank(model: Any, job: Job, asked: Asked, classes: list[list[int]]) -> list[float]:
    """Log-probabilities of classes, in the way of its evaluation.

    After ``EvalModel.get_rank_classifications`` (with ``use_cache`` and without ``normalize_length``) and
    ``EvalModel.__call__`` in open_flamingo/eval/models/open_flamingo.py of github.com/mlfoundations/open_flamingo,
    which the package lacks: the context is read once, then every class token by token, and the log-softmax of each
    class runs over the context, too. Caches were tuples then; now a class would stay in the cache of the next one, and
    is cut off.
    """
    inputs = Inputs(job, asked)
    model.cache_media(input_ids=inputs.ids, vision_x=inputs.pictures)
    context = model(
        vision_x=None,
        lang_x=inputs.ids,
        attention_mask=inputs.mask,
        clear_conditioned_layers=False,
        use_cache=True,
    )
    cache = context.past_key_values
    scores = []
    for tokens in classes:
        logits = []
        for token in tokens:
            output = model(
                vision_x=None,
                lang_x=inputs.ids.new_tensor([[token]]),
                attention_mask=None,
                clear_conditioned_layers=False,
                past_key_values=cache,
                use_cache=True,
            )
            logits.append(output.logits)
        cache.crop(inputs.ids.shape[1])
        likely = torch.cat([context.logits, *logits], dim=1).log_softmax(-1)[:, -len(tokens) - 1 : -1]
        scores.append(float(likely.gather(2, inputs.ids.new_tensor(tokens)[None, :, None]).sum()))
    model.uncache_media()
    return scores


@torch.inference_mode()
def check(job: Job) -> None:
    """Stop where ours says anything else on the same weights and the same prompt."""
    job = job.as_float32()
    model, ours = load_model(job), load_file(job.checked)
    asked = ask(job.shape, 3, name="check", lead=2)
    inputs = Inputs(job, asked)
    logits = model(inputs.pictures, inputs.ids, attention_mask=inputs.mask).logits[0].cpu()
    difference = float((logits - ours["logits"]).abs().max())
    seen = float((ours["other_logits"] - ours["logits"]).abs().max())
    scores = torch.tensor(rank(model, job, asked, candidates(job)[: len(ours["scores"])]))
    scores_difference = float((scores - ours["scores"]).abs().max())
    said, _ = generate(model, job, asked, len(ours["answer"]))
    tell(
        {
            "logits_differ": difference,
            "scores_differ": scores_difference,
            "logits_differ_with_other_pictures": seen,
            "same_answer": said == ours["answer"].tolist(),
            "tolerance": TOLERANCE,
            "versions": {name: metadata.version(name) for name in ("open-flamingo", "torch", "transformers")},
        }
    )
    if not max(difference, scores_difference) <= TOLERANCE:
        raise SystemExit(
            f"ours and OpenFlamingo differ by {difference:.2g} in logits, {scores_difference:.2g} in scores"
        )
    if seen < 10 * TOLERANCE:
        raise SystemExit(f"other pictures change logits by {seen:.2g} only, so that the check says nothing")


def measure(job: Job) -> None:
    """It keeps nothing of earlier prompts, so that first tokens behind known demonstrations come no sooner."""
    model = load_model(job)
    generate(model, job, ask(job.shape, 1, name="warm-up"), 4)
    result: dict[str, float] = {}
    for pictures in job.pictures:
        _, stopwatch = generate(model, job, ask(job.shape, pictures), job.tokens)
        result[f"tokens_per_s_{pictures}"] = stopwatch.rate
        result[f"first_token_s_{pictures}"] = stopwatch.first_token
        result[f"peak_mb_{pictures}"] = peak_mb(job.device)
    with Seconds() as seconds:
        rank(model, job, ask(job.shape, job.rank_pictures, name="rank"), candidates(job))
    tell(result | {"rank_s": seconds.passed, "rank_peak_mb": peak_mb(job.device)})


if __name__ == "__main__":
    job = read_job()
    {"check": check, "measure": measure}[job.task](job)

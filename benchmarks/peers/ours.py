"""Ours: makes the weights that all systems share, answers what the check compares, and is measured by its Engine."""

from statistics import median

import torch
from safetensors.torch import save_file
from setting import (
    GATE,
    LATENTS,
    Asked,
    Job,
    Seconds,
    Shape,
    ask,
    candidates,
    load_weights,
    peak_mb,
    read_job,
    save_weights,
    tell,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerFast

from assistant import Engine, FlamingoConfig, FlamingoForConditionalGeneration, FlamingoProcessor, Options, Prompt
from assistant.images import Picture

TIMES = 3  # queries behind known demonstrations


def make_model(shape: Shape) -> FlamingoForConditionalGeneration:
    """Ours with OpenFlamingo's layout and rules; what it can do beyond that is off."""
    config = FlamingoConfig(
        vision_config=CLIPVisionConfig(**shape.vision()),
        text_config=LlamaConfig(**shape.text()),
        image_token_id=shape.image_token,
        vision_skip_tokens=1,
        resampler_latents=LATENTS,
        cross_attention_layers=range(shape.every - 1, shape.layers, shape.every),
        gate_init=GATE,
        skip_blocks_without_media=False,
    )
    model = FlamingoForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    return model


@torch.no_grad()
def make_weights(job: Job) -> None:
    """Draw them; norms and biases as well, so that no two of them are equal and can be mistaken."""
    torch.manual_seed(0)
    model = make_model(job.shape)
    for parameter in model.parameters():
        if parameter.ndim == 1 and len(parameter) > 1:
            parameter += 0.1 * torch.randn_like(parameter)
    save_weights(model.state_dict(), job.weights)
    tell({"values_per_token": values_per_token(model)})


def values_per_token(model: FlamingoForConditionalGeneration) -> int:
    """Weights that a decode step reads: the language model, its head and the gated blocks.

    One row of the embeddings is read, and the keys and values of pictures are in the cache.
    """
    parts = (model.model.language_model, model.lm_head)
    named = [pair for part in parts for pair in part.named_parameters()]
    return sum(weight.numel() for name, weight in named if "embed_tokens" not in name and "to_kv" not in name)


def load_engine(job: Job, compile: bool = False) -> Engine:
    model = make_model(job.shape)
    assert not load_weights(model, job.weights)
    model = model.to(job.device, job.torch_dtype)
    pictures = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    return Engine(model, FlamingoProcessor(pictures, make_tokenizer(job.shape)), "ours", compile=compile)


def make_tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """Token 7 is the word ``w7``."""
    words = {f"w{number}": number for number in range(shape.image_token)} | {"<image>": shape.image_token}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0")


def words(ids: list[int]) -> str:
    return " ".join(f"w{number}" for number in ids)


def prompt(asked: Asked) -> Prompt:
    return Prompt(tuple(asked.ids), tuple(Picture(image, "random") for image in asked.images))


@torch.inference_mode()
def answer_check(job: Job) -> None:
    """Write logits of a prompt, of the same prompt with other pictures, an answer and scores of candidates."""
    engine = load_engine(job.as_float32())
    asked, other = (ask(job.shape, 3, name=name, lead=2) for name in ("check", "other"))
    pixels = [
        engine.processor.image_processor(one.images, return_tensors="pt")["pixel_values"].to(job.device)
        for one in (asked, other)
    ]
    ids = torch.tensor([asked.ids], device=job.device)
    logits, blind = (engine.model(input_ids=ids, pixel_values=seen).logits[0].cpu() for seen in pixels)
    said = engine.answer(prompt(asked), Options(max_new_tokens=8)).text
    scores = engine.rank(prompt(asked), [words(candidate) for candidate in candidates(job)[:8]])
    results = {
        "logits": logits,
        "other_logits": blind,
        "answer": torch.tensor([int(word[1:]) for word in said.split()]),
        "scores": torch.tensor(scores),
    }
    save_file(results, job.checked)
    tell({})


def measure(job: Job) -> None:
    engine = load_engine(job, compile=job.task == "compiled")
    engine.answer(prompt(ask(job.shape, 1, name="warm-up")), Options(max_new_tokens=4))
    result: dict[str, float] = {}
    for pictures in job.pictures:
        answer = engine.answer(prompt(ask(job.shape, pictures)), Options(max_new_tokens=job.tokens))
        assert answer.usage.cached_tokens == 0 and answer.usage.completion_tokens == job.tokens
        first, total = answer.seconds["first_token"], answer.seconds["total"]
        result[f"tokens_per_s_{pictures}"] = (job.tokens - 1) / (total - first)
        result[f"first_token_s_{pictures}"] = first
        if pictures > 1:
            result[f"warm_first_token_s_{pictures}"] = median(
                warm_first_token(engine, job, pictures, query) for query in range(1, TIMES + 1)
            )
        result[f"peak_mb_{pictures}"] = peak_mb(job.device)
    result |= measure_ranking(engine, job)
    tell(result)


def warm_first_token(engine: Engine, job: Job, pictures: int, query: int) -> float:
    """Seconds to the first token about another last picture."""
    answer = engine.answer(prompt(ask(job.shape, pictures, query=query)), Options(max_new_tokens=1))
    assert answer.usage.cached_tokens > 0
    return answer.seconds["first_token"]


def measure_ranking(engine: Engine, job: Job) -> dict[str, float]:
    """All candidates, of a prompt that is new and of one whose demonstrations are known."""
    classes = [words(candidate) for candidate in candidates(job)]
    result = {}
    for query, name in enumerate(("rank_s", "warm_rank_s")):
        asked = prompt(ask(job.shape, job.rank_pictures, name="rank", query=query))
        with Seconds() as seconds:
            engine.rank(asked, classes)
        result[name] = seconds.passed
    return result | {"rank_peak_mb": peak_mb(job.device)}


if __name__ == "__main__":
    job = read_job()
    {"weights": make_weights, "check": answer_check, "measure": measure, "compiled": measure}[job.task](job)

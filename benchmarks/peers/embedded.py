"""The embedded default as people meet it, and transformers' plain ``generate`` of the same model in the same dtype."""

from pathlib import Path
from statistics import median

from limit import Products
from ours import values_per_token
from setting import Job, Seconds, Stopwatch, peak_mb, read_job, tell

from assistant import Assistant

PHOTO = Path(__file__).resolve().parents[2] / "assistant" / "assets" / "demo.jpg"
QUESTION = "What is in the picture?"
TIMES = 3


def load(job: Job, **options: bool) -> tuple[Assistant, float]:
    """The default, which no token ends, and the seconds that it took from its converted parts."""
    with Seconds() as seconds:
        assistant = Assistant.from_pretrained("default", device=job.device, **options)
    assistant.model.generation_config.eos_token_id = None
    return assistant, seconds.passed


def measure_default(job: Job) -> None:
    loaded, seconds = load(job, compile=job.task == "compiled")
    loaded.ask(QUESTION, [PHOTO], max_new_tokens=4)
    peak = peak_mb(job.device)
    products = Products(values_per_token(loaded.model), loaded.model.dtype, job.device)
    firsts, rates, limits = [], [], []
    for _ in range(TIMES):
        loaded.engine.forget()  # it knows neither the prompt nor the picture
        answer = loaded.ask(QUESTION, [PHOTO], max_new_tokens=job.tokens)
        assert answer.usage.cached_tokens == 0 and answer.usage.completion_tokens == job.tokens
        first, total = answer.seconds["first_token"], answer.seconds["total"]
        firsts.append(first)
        rates.append((job.tokens - 1) / (total - first))
        limits.append(1 / products.best_seconds())
    tell(
        {
            "load_s": seconds,
            "first_token_s": median(firsts),
            "tokens_per_s": median(rates),
            "peak_mb": peak,
            "limit_tokens_per_s": median(limits),
        }
    )


def measure_generate(job: Job) -> None:
    loaded, seconds = load(job, prepack=False)
    loaded.ask(QUESTION, [PHOTO], max_new_tokens=4)
    firsts, rates = [], []
    for _ in range(TIMES):
        stopwatch = Stopwatch()
        inputs = loaded.encode(QUESTION, [PHOTO])
        loaded.model.generate(**inputs, max_new_tokens=job.tokens, do_sample=False, streamer=stopwatch)
        firsts.append(stopwatch.first_token)
        rates.append(stopwatch.rate)
    tell(
        {
            "load_s": seconds,
            "first_token_s": median(firsts),
            "tokens_per_s": median(rates),
            "peak_mb": peak_mb(job.device),
        }
    )


if __name__ == "__main__":
    job = read_job()
    {"default": measure_default, "compiled": measure_default, "generate": measure_generate}[job.task](job)

"""The embedded default as people meet it, and transformers' plain ``generate`` of the same model in the same dtype."""

from pathlib import Path
from statistics import median

from limit import best_seconds
from ours import values_per_token
from setting import Job, Seconds, Stopwatch, peak_mb, read_job, tell

from assistant import Assistant

PHOTO = Path(__file__).resolve().parents[2] / "assistant" / "assets" / "demo.jpg"
QUESTION = "What is in the picture?"
TIMES = 3


def load(job: Job, compile: bool = False) -> tuple[Assistant, float]:
    """The default, which no token ends, and the seconds that it took from its converted parts."""
    with Seconds() as seconds:
        assistant = Assistant.from_pretrained("default", device=job.device, compile=compile)
    assistant.model.generation_config.eos_token_id = None
    return assistant, seconds.passed


def measure_default(job: Job) -> None:
    compiled = job.task == "compiled"
    loaded, seconds = load(job, compiled)
    loaded.ask(QUESTION, [PHOTO], max_new_tokens=4)
    firsts, rates = [], []
    for _ in range(TIMES):
        loaded.engine.forget()  # it knows neither the prompt nor the picture
        answer = loaded.ask(QUESTION, [PHOTO], max_new_tokens=job.tokens)
        assert answer.usage.cached_tokens == 0 and answer.usage.completion_tokens == job.tokens
        first, total = answer.seconds["first_token"], answer.seconds["total"]
        firsts.append(first)
        rates.append((job.tokens - 1) / (total - first))
    tell(
        {
            "load_s": seconds,
            "first_token_s": median(firsts),
            "tokens_per_s": median(rates),
            "peak_mb": peak_mb(job.device),
            "limit_tokens_per_s": 1 / best_seconds(values_per_token(loaded.model), loaded.model.dtype, job.device),
        }
    )


def measure_generate(job: Job) -> None:
    loaded, seconds = load(job)
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

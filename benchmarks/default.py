"""Load, first token, tokens a second and peak memory of the embedded default, beside the bare language model.

Every round runs in a process of its own, the default and the bare language model in turn, so that a noisy machine hits
both alike; medians are printed and written to ``benchmarks/results/default.json``.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
PHOTO = HERE.parent / "assistant" / "assets" / "demo.jpg"
QUESTION = "What is in the picture?"
NEW_TOKENS = 64


def measure_default() -> dict[str, float]:
    """Ask the default about a photograph."""
    from assistant import Assistant

    loaded = Assistant.from_pretrained("default")
    loaded.model.generation_config.eos_token_id = None  # so that every answer is as long as it may be
    first = loaded.ask(QUESTION, [PHOTO], max_new_tokens=4)
    answers = []
    for _ in range(3):
        fresh = Assistant(loaded.model, loaded.processor)  # it knows neither the prompt nor the picture
        answers.append(fresh.ask(QUESTION, [PHOTO], max_new_tokens=NEW_TOKENS))
    again = fresh.ask(QUESTION, [PHOTO], max_new_tokens=1)
    return {
        "load_s": loaded.load_seconds,
        "first_answer_first_token_s": first.seconds["first_token"],
        "first_token_s": statistics.median(a.seconds["first_token"] for a in answers),
        "known_prompt_first_token_s": again.seconds["first_token"],
        "tokens_per_s": statistics.median(
            (NEW_TOKENS - 1) / (a.seconds["total"] - a.seconds["first_token"]) for a in answers
        ),
        "prompt_tokens": first.usage.prompt_tokens,
        "peak_mb": peak_mb(),
    }


def measure_bare() -> dict[str, float]:
    """Plain ``generate`` of the language model alone, in the same dtype, on a prompt of the same length."""
    import torch
    from transformers import AutoModelForCausalLM

    from assistant.api import _dtype
    from assistant.parts import ensure_part

    place = ensure_part("smollm2-135m-instruct")
    started = time.monotonic()
    model = AutoModelForCausalLM.from_pretrained(place, dtype=_dtype(None, torch.device("cpu"))).eval()
    load = time.monotonic() - started
    ids = torch.randint(100, 40_000, (1, 36), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {"load_s": load, "tokens_per_s": tokens_per_second(model, inputs), "peak_mb": peak_mb()}


def tokens_per_second(model: object, inputs: dict) -> float:
    """Decode steps a second: the time of many tokens less that of one."""

    def seconds(tokens: int) -> float:
        started = time.monotonic()
        model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)  # type: ignore[attr-defined]
        return time.monotonic() - started

    seconds(4)
    return (NEW_TOKENS - 1) / (seconds(NEW_TOKENS) - seconds(1))


def peak_mb() -> float:
    """Most memory that this process ever held, in MB (10^6 bytes)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=["default", "bare"], help="measure once, print JSON (used by the rounds)")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure_default() if arguments.one == "default" else measure_bare()))
        return
    rounds: dict[str, list[dict[str, float]]] = {"default": [], "bare": []}
    for _ in range(arguments.rounds):
        for name in rounds:
            output = subprocess.run(
                [sys.executable, __file__, "--one", name], check=True, capture_output=True, text=True
            ).stdout
            rounds[name].append(json.loads(output.strip().splitlines()[-1]))
    medians = {
        name: {key: round(statistics.median(r[key] for r in runs), 3) for key in runs[0]}
        for name, runs in rounds.items()
    }
    ratios = [d["tokens_per_s"] / b["tokens_per_s"] for d, b in zip(rounds["default"], rounds["bare"], strict=True)]
    report = {
        "machine": f"{platform.processor() or platform.machine()}, {platform.system()}",
        "rounds": arguments.rounds,
        "median": medians,
        "tokens_per_s_ratio_to_bare": round(statistics.median(ratios), 3),
    }
    for name, values in medians.items():
        print(f"{name:8} " + "  ".join(f"{key} {value}" for key, value in values.items()))
    print(f"decoding with a picture runs at {report['tokens_per_s_ratio_to_bare']} of the bare language model's rate")
    target = HERE / "results" / "default.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

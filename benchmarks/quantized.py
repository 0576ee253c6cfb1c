"""The embedded default in bfloat16, 8 and 4 bits: bytes, load, tokens a second, and whether it says the same.

Each is measured in a process of its own, in turns, so that a noisy machine hits all alike. All are asked what is in the
23 photographs of the naming task's development set and in the bundled one; medians and shares are printed and written
to ``benchmarks/results/quantized.json``.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from default import NEW_TOKENS, PHOTO, QUESTION, peak_mb

HERE = Path(__file__).parent
KINDS = ("bfloat16", "int8", "nf4")


def measure(kind: str) -> dict[str, Any]:
    """Load, ask about every photograph, and answer at length once more."""
    from assistant import Assistant
    from assistant.quantization import held_bytes
    from training.eval.naming import naming

    loaded = Assistant.from_pretrained("default", dtype="bfloat16", quantize=None if kind == "bfloat16" else kind)
    photos = [PHOTO, *(item.query.pictures[0] for item in naming("dev", 0))]
    said = [loaded.ask(QUESTION, [photo], max_new_tokens=16) for photo in photos]
    loaded.model.generation_config.eos_token_id = None  # so that the answer is as long as it may be
    long = loaded.ask("Describe the picture.", [PHOTO], max_new_tokens=NEW_TOKENS)
    return {
        "answers": [answer.text for answer in said],
        "weights_mb": held_bytes(loaded.model) / 1e6,
        "load_s": loaded.load_seconds,
        "first_token_s": statistics.median(answer.seconds["first_token"] for answer in said),
        "tokens_per_s": (NEW_TOKENS - 1) / (long.seconds["total"] - long.seconds["first_token"]),
        "peak_mb": peak_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=KINDS, help="measure once, print JSON (used by the rounds)")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    rounds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.rounds):
        for kind in KINDS:
            command = [sys.executable, __file__, "--one", kind]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rounds[kind].append(json.loads(output.strip().splitlines()[-1]))
    whole = rounds["bfloat16"][0].pop("answers")
    report: dict[str, Any] = {"rounds": arguments.rounds, "photographs": len(whole)}
    for kind, runs in rounds.items():
        answers = runs[0].pop("answers", whole)
        medians = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        report[kind] = {**medians, "same_answers": sum(a == b for a, b in zip(answers, whole, strict=True))}
        print(f"{kind:8} " + "  ".join(f"{key} {value}" for key, value in report[kind].items()))
    (HERE / "results" / "quantized.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

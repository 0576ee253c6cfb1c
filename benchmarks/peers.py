"""Ours, OpenFlamingo and Idefics side by side: the same shape, random weights, prompts and dtype.

    make bench-peers

Before anything is timed, ours and OpenFlamingo have to say the same. Then every system is measured in a process of its
own, one after the other in every round, so that a noisy machine hits all alike; each round starts with another one.
Medians are printed, and a run with nothing left out writes them to ``benchmarks/results/peers.json`` with a plot.
The workers lie in ``benchmarks/peers/``; OpenFlamingo's has an environment of its own, with an older transformers.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS = ROOT / ".venv-peers" / "bin" / "python"
OURS = Path(sys.executable)

Metrics = dict[str, float]
Round = dict[str, Metrics]


@dataclass(frozen=True)
class System:
    """Whom a worker measures: its interpreter, its script, and what it is told to do."""

    python: Path
    script: str
    task: str = "measure"


SYSTEMS = {
    "ours": System(OURS, "ours.py"),
    "ours compiled": System(OURS, "ours.py", "compiled"),
    "openflamingo": System(PEERS, "openflamingo.py"),
    "idefics": System(OURS, "idefics.py"),
    "default": System(OURS, "embedded.py", "default"),
    "compiled": System(OURS, "embedded.py", "compiled"),
    "generate": System(OURS, "embedded.py", "generate"),
}
LIMIT = System(OURS, "limit.py")

SMOKE_SYSTEMS = ["ours", "openflamingo", "idefics"]

# Fields of a job at a tiny shape.
SMOKE = {
    "shape": {
        "width": 64,
        "layers": 4,
        "heads": 4,
        "intermediate": 96,
        "vocabulary": 512,
        "vision_width": 32,
        "image_side": 32,
    },
    "pictures": [1, 2],
    "rank_pictures": 2,
    "candidates": 8,
    "tokens": 8,
}

NOTES = [
    "The language model is LLaMA's: 12 layers of 768, 12 heads, intermediate 2048, 32,000 tokens, a gated block before "
    "every second layer; 64 latents and 20 tokens of text a picture; 64 tokens of answer, which none of them ends.",
    "All start from pixels in memory. The tower is CLIP's patch embedding without a layer; the resampler is counted.",
    "OpenFlamingo has all weights of ours. Idefics has the tower, the resampler (with ReLU for GELU), the language "
    "model and its head; its gated blocks (12 heads, SwiGLU, RMSNorm, before layers 0, 2, ...) are drawn at random.",
    "warm: the demonstrations of the prompt were asked about before, with another last picture and text. Ours finds "
    "them in its store of prefixes; the others have none, and their warm first token is their cold one.",
    "rank: log-probabilities of all classes behind a new prompt; for OpenFlamingo in the way of its evaluation, for "
    "Idefics the whole prompt with each of ten classes, times the number of classes over ten.",
    "limit: the fastest of 60 matrix-vector products over as many values as a decode step of ours reads; a third of "
    "them with a matrix that oneDNN has packed, as ours has its weights.",
    "generate: transformers' plain generate of the embedded default, in the default's own dtype, weights not packed; "
    "default and compiled: our engine, without and with a compiled decode step, and the limit for their weights.",
]


@dataclass(frozen=True)
class Ratio:
    """One metric over another, and the least that is wanted of it."""

    over: tuple[str, str]
    under: tuple[str, str]
    least: float | None = None

    def __str__(self) -> str:
        return f"{' '.join(self.over)} / {' '.join(self.under)}"

    def of(self, measured: Mapping[str, Metrics]) -> float | None:
        """``None`` where either was not measured."""
        over, under = (measured.get(system, {}).get(metric) for system, metric in (self.over, self.under))
        return over / under if over and under else None


RATIOS = (
    Ratio(("ours", "tokens_per_s_32"), ("ours", "tokens_per_s_1"), 0.9),
    Ratio(("ours", "tokens_per_s_8"), ("openflamingo", "tokens_per_s_8"), 1.5),
    Ratio(("ours", "tokens_per_s_32"), ("openflamingo", "tokens_per_s_32"), 3),
    Ratio(("ours", "tokens_per_s_32"), ("idefics", "tokens_per_s_32"), 2),
    Ratio(("ours", "tokens_per_s_1"), ("limit", "tokens_per_s")),
    Ratio(("ours", "tokens_per_s_32"), ("limit", "tokens_per_s")),
    Ratio(("ours compiled", "tokens_per_s_1"), ("limit", "tokens_per_s"), 0.75),
    Ratio(("ours compiled", "tokens_per_s_32"), ("limit", "tokens_per_s")),
    Ratio(("ours compiled", "tokens_per_s_32"), ("ours compiled", "tokens_per_s_1")),
    Ratio(("idefics", "first_token_s_32"), ("ours", "first_token_s_32"), 1),
    Ratio(("openflamingo", "first_token_s_32"), ("ours", "first_token_s_32")),
    Ratio(("openflamingo", "first_token_s_8"), ("ours", "warm_first_token_s_8"), 8),
    Ratio(("openflamingo", "first_token_s_32"), ("ours", "warm_first_token_s_32"), 25),
    Ratio(("openflamingo", "rank_s"), ("ours", "rank_s"), 20),
    Ratio(("openflamingo", "rank_s"), ("ours", "warm_rank_s")),
    Ratio(("idefics", "rank_s"), ("ours", "rank_s")),
    Ratio(("default", "tokens_per_s"), ("generate", "tokens_per_s")),
    Ratio(("default", "tokens_per_s"), ("default", "limit_tokens_per_s")),
    Ratio(("compiled", "tokens_per_s"), ("generate", "tokens_per_s"), 1.5),
    Ratio(("compiled", "tokens_per_s"), ("compiled", "limit_tokens_per_s"), 0.6),
    Ratio(("generate", "first_token_s"), ("default", "first_token_s")),
)


class WorkerError(Exception):
    """A worker failed, or found that ours and OpenFlamingo differ."""


def work(system: System, job: Mapping[str, Any], task: str | None = None) -> dict[str, Any]:
    """What one worker tells.

    Args:
        task: by default the one of the system.

    Raises:
        WorkerError: it failed; with the end of what it said.
    """
    if not system.python.exists():
        raise WorkerError(f"{system.python} is not there: `make bench-peers` builds it, --systems leaves it out")
    done = subprocess.run(
        [system.python, HERE / "peers" / system.script, json.dumps({**job, "task": task or system.task})],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRANSFORMERS_VERBOSITY": "error"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise WorkerError(f"{system.script} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(names: Sequence[str], job: dict[str, Any], rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Make the weights, check, then measure in rounds.

    Returns:
        ``check``, if OpenFlamingo is among the systems, and ``rounds``, what each system told in each.

    Raises:
        WorkerError: as in :func:`work`.
    """
    result: dict[str, Any] = {"rounds": []}
    job = {**job, **work(SYSTEMS["ours"], job, "weights")}
    if "openflamingo" in names:
        work(SYSTEMS["ours"], job, "check")
        result["check"] = work(SYSTEMS["openflamingo"], job, "check")
        say(f"check: {json.dumps(result['check'])}")
    everybody = {name: SYSTEMS[name] for name in names} | {"limit": LIMIT}
    for number in range(rounds):
        told: Round = {}
        for name in rotated(list(everybody), number):
            started = time.monotonic()
            told[name] = work(everybody[name], job)
            say(f"round {number + 1} of {rounds}: {name}, {time.monotonic() - started:.0f} s")
        result["rounds"].append(told)
    return result


def rotated(names: list[str], by: int) -> list[str]:
    """The same names, beginning with another one."""
    by %= len(names)
    return names[by:] + names[:by]


# ---- what is reported


def summarise(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians of all metrics, and ratios of what was measured in the same round: their median, lowest and highest."""
    medians = {
        system: {metric: _round(statistics.median(told[system][metric] for told in rounds)) for metric in metrics}
        for system, metrics in rounds[0].items()
    }
    ratios = []
    for ratio in RATIOS:
        values = [value for value in map(ratio.of, rounds) if value is not None]
        if values:
            median = statistics.median(values)
            row = {"what": str(ratio), "median": _round(median), "range": [_round(min(values)), _round(max(values))]}
            if ratio.least is not None:
                row |= {"wanted": ratio.least, "reached": median >= ratio.least}
            ratios.append(row)
    return {"median": medians, "ratios": ratios}


def _round(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


def show(device: str, summary: Mapping[str, Any]) -> None:
    for system, metrics in summary["median"].items():
        print(f"{device} {system}: " + ", ".join(f"{metric} {value:g}" for metric, value in metrics.items()))
    for row in summary["ratios"]:
        wanted = f", wanted {row['wanted']:g}: {'yes' if row['reached'] else 'NO'}" if "wanted" in row else ""
        print(f"{device} {row['what']}: {row['median']:g} ({row['range'][0]:g} to {row['range'][1]:g}){wanted}")


def save_plot(report: Mapping[str, Any], file: Path) -> None:
    """Decoding and first tokens against the number of pictures, on the CPU."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    medians, pictures = report["cpu"]["median"], report["pictures"]
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    decoding, first = figure.subplots(1, 2)
    places = list(range(len(pictures)))
    for system in [name for name in ("ours", "ours compiled", "openflamingo", "idefics") if name in medians]:
        told = medians[system]
        decoding.plot(places, [told[f"tokens_per_s_{n}"] for n in pictures], "o-", label=system)
        [line] = first.plot(places, [told[f"first_token_s_{n}"] for n in pictures], "o-")
        warm = [(place, told.get(f"warm_first_token_s_{n}")) for place, n in zip(places, pictures, strict=True)]
        known = [(place, seconds) for place, seconds in warm if seconds]
        if known:
            first.plot(
                *zip(*known, strict=True), "o--", color=line.get_color(), label=f"{system}, demonstrations known"
            )
    limit = medians["limit"]["tokens_per_s"]
    decoding.axhline(limit, linestyle=":", color="grey", label="limit of the memory")
    decoding.set(ylabel="tokens a second", ylim=(0, 1.1 * limit), title="decoding")
    first.set(ylabel="seconds", yscale="log", title="first token")
    for axes in (decoding, first):
        axes.set_xticks(places, [str(number) for number in pictures])
        axes.set_xlabel("pictures in the prompt")
        axes.grid(alpha=0.3)
    figure.suptitle(f"{report['dtype']}, {report['machine']}", fontsize="small")
    figure.legend(loc="outside lower center", ncols=5)
    figure.savefig(file, dpi=130)


def machine() -> str:
    """Processor, cores and system."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def devices() -> list[str]:
    """The CPU, and the GPU where there is one."""
    import torch

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", help="numbers of pictures, with commas between them; default: 1,8,32")
    parser.add_argument("--systems", help=f"only these, with commas between them; of {', '.join(SYSTEMS)}")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny shape, one round, in seconds; its figures say nothing"
    )
    parser.add_argument(
        "--out", type=Path, help="keeps a run with something left out or in another dtype in this folder"
    )
    arguments = parser.parse_args()
    names = arguments.systems.split(",") if arguments.systems else SMOKE_SYSTEMS if arguments.smoke else [*SYSTEMS]
    if unknown := [name for name in names if name not in SYSTEMS]:
        parser.error(f"--systems: {unknown[0]} is not known; known are {', '.join(SYSTEMS)}")
    job: dict[str, Any] = {"dtype": arguments.dtype, "pictures": [1, 8, 32]}
    if arguments.smoke:
        job |= SMOKE
    if arguments.pictures:
        job["pictures"] = sorted(map(int, arguments.pictures.split(",")))
    left_out = arguments.smoke or arguments.systems or arguments.pictures or arguments.dtype != "float32"
    out = arguments.out if left_out else HERE / "results"
    rounds = 1 if arguments.smoke else arguments.rounds
    report = {
        "machine": machine(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
        "dtype": arguments.dtype,
        "rounds": rounds,
        "pictures": job["pictures"],
        "notes": NOTES,
    }
    try:
        for device in devices():
            with tempfile.TemporaryDirectory() as folder:
                told = measure(names, {**job, "folder": folder, "device": device}, rounds, say)
            report[device] = {**({"check": told["check"]} if "check" in told else {}), **summarise(told["rounds"])}
            show(device, report[device])
    except WorkerError as error:
        sys.exit(f"error: {error}")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "peers.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        save_plot(report, out / "peers.png")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

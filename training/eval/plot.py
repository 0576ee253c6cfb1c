"""Accuracy against shots, as a picture."""

from pathlib import Path

from assistant.errors import MissingExtraError
from training.eval.report import ALL, Report


def save_plot(report: Report, file: Path) -> None:
    """Draw accuracy with its band against the number of shots, controls dashed, chance dotted.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "train") from None
    rows = sorted((row for row in report.accuracy if row.kind == ALL), key=lambda row: row.shots)
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = {shots: place for place, shots in enumerate(sorted({row.shots for row in rows}))}
    for control in dict.fromkeys(row.control for row in report.accuracy):
        mine = [row for row in rows if row.control == control]
        x = [places[row.shots] for row in mine]
        main = control == "none"
        label = report.about["task"]["name"] if main else control.replace("_", " ")
        [line] = axes.plot(
            x, [100 * r.accuracy for r in mine], "o-" if main else "o--", label=label, alpha=1 - 0.3 * (not main)
        )
        if main:
            low, high = zip(*(row.interval for row in mine), strict=True)
            if len(mine) > 1:
                axes.fill_between(x, [100 * v for v in low], [100 * v for v in high], color=line.get_color(), alpha=0.2)
            else:
                axes.vlines(x, 100 * low[0], 100 * high[0], color=line.get_color(), alpha=0.4, linewidth=6)
            axes.plot(x, [100 * row.chance for row in mine], ":", marker="_", color="grey", label="chance")
    unit = "examples" if report.about["task"]["shots_mean"] == "total" else "examples an answer"
    axes.set_xticks(list(places.values()), [str(shots) for shots in places])
    axes.set(xlabel=unit, ylabel="right, % (95 % interval)", ylim=(-2, 102), title=title(report))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(file, dpi=130)


def title(report: Report) -> str:
    """``naming, dev, default``"""
    about = report.about
    return f"{about['task']['name']}, {about['settings']['set']}, {about['model']['name']}"

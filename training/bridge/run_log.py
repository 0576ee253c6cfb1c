"""The log of a training run: one CSV file and TensorBoard, in step with the checkpoint it resumes from."""

import csv
from pathlib import Path

from assistant.errors import MissingExtraError


class RunLog:
    """Writes scalars.

    Args:
        folder: the run's folder.
        step: rows at or after this step, left by an interrupted run, are dropped.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("tensorboard", "train") from None
        self.file = folder / "log.csv"
        self.columns: list[str] = []
        rows: list[dict[str, str]] = []
        if self.file.exists():
            with self.file.open(newline="", encoding="utf-8") as handle:
                reader = csv.DictReader(handle)
                rows = [row for row in reader if int(row["step"]) < step]
                self.columns = list(reader.fieldnames or [])
        self.rows = rows
        self._rewrite()
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add one row."""
        row = {"step": str(step), **{key: f"{value:.6g}" for key, value in scalars.items()}}
        self.rows.append(row)
        if set(row) <= set(self.columns):
            with self.file.open("a", newline="", encoding="utf-8") as handle:
                csv.DictWriter(handle, self.columns, restval="").writerow(row)
        else:
            self.columns += [key for key in row if key not in self.columns]
            self._rewrite()
        for key, value in scalars.items():
            self.board.add_scalar(key, value, step)

    def _rewrite(self) -> None:
        if not self.columns:
            return
        with self.file.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)

    def close(self) -> None:
        self.board.close()

import csv
import sys

import pytest

from assistant.errors import MissingExtraError
from training.bridge.run_log import RunLog


def rows(folder):
    with (folder / "log.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_row_stands_on_disk_at_once(tmp_path):
    log = RunLog(tmp_path, 0)
    log.write(0, {"loss": 1.5})
    assert rows(tmp_path) == [{"step": "0", "loss": "1.5"}]
    log.write(1, {"loss": 1 / 3})
    assert rows(tmp_path)[1] == {"step": "1", "loss": "0.333333"}
    log.close()


def test_new_columns_join_and_missing_ones_are_empty(tmp_path):
    log = RunLog(tmp_path, 0)
    log.write(0, {"a": 1})
    log.write(1, {"b": 2})
    log.write(2, {"a": 3})
    log.close()
    assert rows(tmp_path) == [
        {"step": "0", "a": "1", "b": ""},
        {"step": "1", "a": "", "b": "2"},
        {"step": "2", "a": "3", "b": ""},
    ]


def test_what_an_interrupted_run_left_behind_the_checkpoint_is_dropped(tmp_path):
    log = RunLog(tmp_path, 0)
    for step in range(6):
        log.write(step, {"loss": step})
    log.close()
    log = RunLog(tmp_path, 4)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2", "3"]
    log.write(4, {"loss": 40, "more": 1})
    log.close()
    assert [row["loss"] for row in rows(tmp_path)] == ["0", "1", "2", "3", "40"]


def test_nothing_is_written_before_the_first_row(tmp_path):
    RunLog(tmp_path, 0).close()
    assert not (tmp_path / "log.csv").exists()


def test_tensorboard_has_the_same_scalars_without_the_dropped_ones(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, 0)
    for step in range(4):
        log.write(step, {"loss/caption": step / 2})
    log.close()
    log = RunLog(tmp_path, 2)
    log.write(2, {"loss/caption": 9})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/caption")] == [(0, 0.0), (1, 0.5), (2, 9.0)]


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"flamingo-assistant\[train\]"):
        RunLog(tmp_path, 0)

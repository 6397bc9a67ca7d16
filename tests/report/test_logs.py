"""Which rank logs what, and where."""

from __future__ import annotations

import re
import sys

from mindcv_ghost.report.logs import setup_logging

LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def test_rank_0_writes_plain_lines_to_stdout_and_file(tmp_path, capsys):
    setup_logging(tmp_path / "run", rank=0).info("epoch %d", 3)
    out, err = capsys.readouterr()
    assert re.fullmatch(LINE + "epoch 3\n", out)
    assert err == ""
    assert (tmp_path / "run" / "train.log").read_text() == out


def test_warnings_are_marked(tmp_path, capsys):
    setup_logging(tmp_path).warning("8 workers, 2 cores")
    assert re.fullmatch(LINE + "warning: 8 workers, 2 cores\n", capsys.readouterr().out)


def test_other_ranks_are_silent_and_have_no_file_without_warnings(tmp_path, capsys):
    setup_logging(tmp_path, rank=3).info("epoch 1")
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_other_ranks_warnings_go_to_their_own_file(tmp_path, capsys):
    setup_logging(tmp_path, rank=3).warning("bad image")
    assert capsys.readouterr() == ("", "")
    assert "warning: bad image" in (tmp_path / "train_rank3.log").read_text()


def test_other_ranks_without_a_folder_are_silent(capsys):
    setup_logging(None, rank=1).warning("bad image")
    assert capsys.readouterr() == ("", "")


def test_log_file_is_appended_to_and_no_line_is_printed_twice(tmp_path, capsys):
    for line in ("first", "second"):
        setup_logging(tmp_path).info(line)
    assert capsys.readouterr().out.count("second") == 1
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["first", "second"]


def test_file_only_records_stay_off_the_console(tmp_path, capsys):
    setup_logging(tmp_path, name="validate").info("detail", extra={"console": False})
    assert capsys.readouterr().out == ""
    assert "detail" in (tmp_path / "validate.log").read_text()


def test_the_root_logger_gets_no_line(tmp_path, caplog):
    setup_logging(tmp_path).info("once")
    assert caplog.records == []


def test_closed_pipe_does_not_stop_a_run(tmp_path, monkeypatch):
    class Closed:
        def write(self, _):
            raise BrokenPipeError

        def flush(self):
            pass

    logger = setup_logging(tmp_path)
    monkeypatch.setattr(sys, "stdout", Closed())
    logger.info("still here")
    assert "still here" in (tmp_path / "train.log").read_text()

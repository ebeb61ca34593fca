"""What a run says: log lines and progress on stderr, stdout left for the result."""

from __future__ import annotations

import logging
import os

import pytest

from llavaflow.infra.console import LineProgress, stdout_to_stderr, terminal


def test_logs_and_progress_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal() as (log, progress):
        log.getChild("download").info("10 of 12 URLs")
        with progress.bar("downloading", 12) as bar:
            bar.advance(10)
            bar.note("83 %")
    out, err = capsys.readouterr()
    assert out == "" and "10 of 12 URLs" in err
    assert logging.getLogger("llavaflow").propagate


def test_in_a_log_file_a_long_bar_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lines")
    logger.setLevel(logging.INFO)
    with LineProgress(logger, every_s=0.0).bar("captions", 3) as bar:
        bar.note("loss 2.1")
        bar.advance(2)
    assert caplog.messages == ["captions 2/3 loss 2.1"]
    caplog.clear()
    with LineProgress(logger).bar("captions", 3) as bar:
        bar.advance(3)
    assert not caplog.messages, "what is soon done is not worth a line"


def test_what_libraries_print_does_not_reach_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with stdout_to_stderr():
        print("by Python")
        os.system("echo by a child")
    print("the result")
    out, err = capfd.readouterr()
    assert out == "the result\n"
    assert "by Python" in err and "by a child" in err

"""What docs/large_runs.md promises: its code is run as printed."""

from pathlib import Path

import pytest

from .pages import run_blocks

PAGE = Path(__file__).resolve().parents[1] / "docs" / "large_runs.md"


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra 'dask'")
    monkeypatch.chdir(tmp_path)
    names = run_blocks(PAGE, {})
    assert names["search"].best_score_ > 0.5

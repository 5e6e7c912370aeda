"""The code of docs/large_runs.md, as printed."""

from pathlib import Path

import pytest

from .pages import run_blocks

PAGE = Path(__file__).resolve().parents[1] / "docs" / "large_runs.md"


def _record_listening(distributed, psutil):
    """Return a copy of LocalCluster, and the addresses at which this process listens."""
    addresses = set()

    class Recorded(distributed.LocalCluster):
        def __enter__(self):
            entered = super().__enter__()
            process = psutil.Process()
            list_connections = getattr(process, "net_connections", None) or process.connections
            addresses.update(
                c.laddr.ip for c in list_connections("inet") if c.status == psutil.CONN_LISTEN
            )
            return entered

    return Recorded, addresses


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="needs the extra 'dask'")
    recorded, addresses = _record_listening(distributed, pytest.importorskip("psutil"))
    monkeypatch.setattr("dask.distributed.LocalCluster", recorded)
    monkeypatch.chdir(tmp_path)
    names = run_blocks(PAGE, {})
    assert names["search"].best_score_ > 0.5
    # Scheduler and dashboard cannot be reached from the network.
    assert addresses == {"127.0.0.1"}

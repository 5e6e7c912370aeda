"""What docs/large_runs.md promises: its code is run as printed."""

from pathlib import Path

import pytest

from .pages import run_blocks

PAGE = Path(__file__).resolve().parents[1] / "docs" / "large_runs.md"


def _record_listening(distributed, psutil):
    """Give LocalCluster's twin, and the addresses at which this process listens while it is up."""
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
    # Scheduler and dashboard: nobody else in the network reaches them.
    assert addresses == {"127.0.0.1"}

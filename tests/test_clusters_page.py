"""The cluster of docs/clusters.md gives the vectors of one process, and listens locally only."""

from pathlib import Path

import numpy as np
import pytest

from .pages import run_blocks

PAGE = Path(__file__).resolve().parents[1] / "docs" / "clusters.md"


def _record_listening(distributed, psutil):
    """Return a LocalCluster that records the addresses at which this process listens."""
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
def test_the_cluster_of_the_page_gives_equal_vectors_and_listens_locally(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="needs the extra 'dask'")
    recorded, addresses = _record_listening(distributed, pytest.importorskip("psutil"))
    monkeypatch.setattr("dask.distributed.LocalCluster", recorded)
    monkeypatch.chdir(tmp_path)
    names = run_blocks(PAGE, {"__name__": "__main__"}, "LocalCluster(")
    np.testing.assert_array_equal(names["embeddings"], names["alone"])
    # Nobody else in the network reaches the scheduler and the dashboard.
    assert addresses == {"127.0.0.1"}

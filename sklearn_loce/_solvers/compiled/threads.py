"""Work that a few threads share, for code that lets other threads run while it computes."""

from concurrent.futures import ThreadPoolExecutor


def share_out(work, items, n_threads):
    """Let every thread go over its share of the items.

    Parameters
    ----------
    work : callable
        Called once per thread with an iterator; all draw from the same one, as they get done.
    items : sequence
    n_threads : int
        Of which no more are started than there are items; a single one is the caller's.
    """
    n_threads = min(n_threads, len(items))
    if n_threads == 1:
        work(iter(items))
        return
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(work, [iter(items)] * n_threads))

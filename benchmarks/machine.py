"""Description of the machine and the software of a report."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import sklearn_loce

_PACKAGES = ("torch", "torchvision", "numpy", "numba", "scikit-learn")
_CPUINFO = Path("/proc/cpuinfo")
BUSY = 0.5  # load per core from which times are not to be trusted


def _processor():
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def load():
    """Return the load average of the last minute; ``None`` if the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe(options):
    """Describe machine, software and options, for the beginning of a report."""
    versions = {"python": platform.python_version()}
    versions |= {package: version(package) for package in _PACKAGES}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "system": platform.platform(),
        "versions": {**versions, "sklearn_loce": sklearn_loce.__version__},
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "samples": options.samples,
        "images": options.images,
        "load_at_start": load(),
        "load_at_end": None,
    }


def is_busy(about):
    """Return whether other work was running at the start."""
    return about["load_at_start"] is not None and about["load_at_start"] > BUSY * about["cores"]

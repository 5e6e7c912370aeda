"""Speed and memory, as ratios of two measurements in one run."""

"""The compiled solvers for float32 on the CPU."""

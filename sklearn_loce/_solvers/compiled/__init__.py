"""The solvers for float32 on the CPU, compiled."""

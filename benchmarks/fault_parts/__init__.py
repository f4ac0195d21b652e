"""The parts of benchmarks/faults.py: each injects one kind of fault into a tiny run and returns a table."""

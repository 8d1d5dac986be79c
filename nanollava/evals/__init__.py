"""What the paper's evaluations measure; the programs that ask models and judges are in `benchmarks/`."""

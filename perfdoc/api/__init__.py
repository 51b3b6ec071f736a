"""What people call from Python; ``perfdoc.bench_step`` and ``perfdoc.bench_loader`` are here."""

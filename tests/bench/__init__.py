"""Benchmarks: one module a room, each with a `main()` that prints one table. Run them all with `make bench`."""

"""Side-by-side benchmarks: all frameworks train the same network on the same machine."""

"""Side-by-side measurements: every framework trains the same network on the same machine."""

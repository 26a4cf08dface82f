"""The commands of `flaxcifar COMMAND`, one module each with a `parser()` and a `main(argv)`."""

"""What is measured: the same networks and steps in flaxcifar, Keras and PyTorch."""

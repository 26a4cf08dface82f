"""The same networks and training steps in flaxcifar, Keras and PyTorch."""

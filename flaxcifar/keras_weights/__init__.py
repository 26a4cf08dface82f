"""Reading and writing Keras weight files."""

"""The work of a GPU with random weights in the shapes of the catalogue: features, a training step,
decoding. Nothing is downloaded.
"""

"""The work of a GPU with random weights of the true shapes: features, a training step, decoding.
Nothing is downloaded.
"""

"""Measurements besides the pipeline; no stage runs them."""

import components  # noqa: F401  before transformers: torchaudio may have to load without CUDA

"""Libretto's rooms: one package for each stage of ``dvc.yaml``, over the ground floor (config,
audio, text, model).
"""

from components.runtime.torchaudio_extension import install

install()

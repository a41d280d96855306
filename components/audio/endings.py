"""Which files of a folder are recordings: one list of endings for every command and corpus."""

from __future__ import annotations

from pathlib import PurePath

# What libsndfile 1.2 reads by its ending; a .raw has no header, so its rate is unknown.
_READ = """
.aif .aifc .aiff .au .avr .caf .flac .htk .ircam .mat4 .mat5 .mp2 .mp3 .mpc2k .nist .oga .ogg .opus
.paf .pvf .rf64 .sd2 .sds .snd .sph .svx .voc .w64 .wav .wave .wavex .wve .xi
"""
# Recordings that it does not read: to be named, not passed over.
_NOT_READ = """
.3gp .aac .ac3 .amr .ape .avi .dts .flv .m4a .m4b .mka .mkv .mov .mp4 .mpeg .mpg .ra .raw .tta .webm
.wma .wv
"""
ENDINGS = frozenset(_READ.split())
UNREADABLE_ENDINGS = frozenset(_NOT_READ.split())
UNREADABLE = "libsndfile does not read this format; convert it to FLAC or WAV"


def is_recording(path: PurePath) -> bool:
    """Whether a file counts as a recording by its ending."""
    return path.suffix.lower() in ENDINGS


def is_unreadable_recording(path: PurePath) -> bool:
    """Whether a file is a recording by its ending, of a format that can't be read."""
    return path.suffix.lower() in UNREADABLE_ENDINGS

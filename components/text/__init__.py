"""Texts of utterances: forms, word errors, joining of segments, and the utterance itself."""

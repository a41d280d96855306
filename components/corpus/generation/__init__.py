"""Generated audio: blocks in the work cache, espeak-ng, the grammar of the sentences, synthesis of
non-speech sounds.
"""

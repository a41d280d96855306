"""Audio that is made here: blocks in the work cache, espeak-ng, the grammar of the sentences."""

"""Ground floor: the forms of a text and the word error rate."""

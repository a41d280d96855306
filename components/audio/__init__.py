"""Sound: reading and writing files, tempo, conditions, augmentation, segments."""

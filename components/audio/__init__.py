"""Ground floor: reading, checking and writing sound."""

"""Speech encoders of any family behind one interface, and their CTC heads."""

"""Ground floor: parameters, catalogue, runtime settings, work cache, and how a stage runs."""

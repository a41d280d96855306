"""What is measured beside the pipeline; no stage runs it."""

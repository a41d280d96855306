"""What every training needs: what is tuned, losses and masks of its own, precision, ranks, schedules, checkpoints."""

"""How and where a run happens: settings, stage runner, work cache, fan-out, progress, S3."""

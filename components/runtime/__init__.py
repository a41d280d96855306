"""How and where a run happens: runtime settings, stage runner, work cache, fan-out,
progress, S3.
"""

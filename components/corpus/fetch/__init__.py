"""Fetching of published corpora: archives of the catalogue, download, extraction, installation."""

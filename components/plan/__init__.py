"""What a run will cost, before it runs: downloads, disk, parameters, memory and hours. No stage of
its own.
"""

"""What a run will cost, before it costs: downloads, disk, parameters, memory and hours. No stage of
its own.
"""

"""``shards``: manifest → webdataset tars with an index; and the reader and the order that all later
stages use.
"""

RESULT_VERSION = 1  # enters the work-cache keys: raise it when the same manifest gives other tars

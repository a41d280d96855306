"""``shards``: manifest → webdataset tars with an index; and the reader and the order that all later
stages use.
"""

# A part of the keys of the work cache: raise it if the same manifest gives other tars although no
# code has changed.
RESULT_VERSION = 1

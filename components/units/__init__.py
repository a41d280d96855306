"""``units``: frames of a layer of the encoder → the k-means centroids that a bridge of discrete
units reads them with.
"""

# A part of the keys of the work cache: raise it if the same inputs give other centroids although no
# code has changed.
RESULT_VERSION = 1

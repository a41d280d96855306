"""``splits``: the manifests of all roles → proof that training and test share nothing."""

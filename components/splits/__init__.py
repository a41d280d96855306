"""``splits``: manifests of all roles → proof that nothing stands on both sides."""

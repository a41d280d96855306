"""When, where and how often: Prefect over the DAG that DVC holds."""

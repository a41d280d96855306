"""When, where and how often a pipeline runs: Prefect over the DAG that DVC owns."""

import os

# Prefect reads these when it is imported; a value that is set already stays.
for _name, _value in {
    # seconds; the first start creates the database, and Prefect's own limit is 20
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # no telemetry
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(_name, _value)

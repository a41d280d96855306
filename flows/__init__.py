"""When, where and how often: Prefect over the DAG that DVC holds."""

import os

# Before Prefect is imported, which reads them then; what somebody has set stays.
for _name, _value in {
    # the first start makes the database; Prefect gives it 20
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # nobody is told of what runs here
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(_name, _value)

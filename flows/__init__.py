"""The product around the library: Prefect flows, the MLflow registry and the command `elborank`.

What stands here must be set before Prefect, MLflow or torch is imported anywhere; what is set already stays.
"""

import os

for _name, _value in {
    # Small networks make many short parallel sections. By default threads spin while they wait for each
    # other; on a machine with other work that made a training take five times the processor time.
    "OMP_WAIT_POLICY": "PASSIVE",
    # The embedded server's first start (its database is migrated) takes longer than the 20 s that it is
    # allowed.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # The automations of `elborank deploy` take a run for dead whose heartbeat has stopped for 90 seconds; by
    # default the next would come after 180.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # No telemetry, from us or from what we stand on.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    # A model is JSON and safetensors; nothing here ever needs a pickle to be read.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # With a tracking server it prints addresses to standard output, where --json promises one document.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Standard error holds what went wrong, and nothing else where it is no terminal.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Its default waits for minutes before it says that a tracking server cannot be reached.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    # Of a server that takes the connection and says nothing: it waited for 120 s, four times. This is the
    # longest silence, not the longest transfer; models are a few megabytes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}.items():
    os.environ.setdefault(_name, _value)

"""The product around the library: Prefect flows, the MLflow registry and the command `elborank`."""

#!/bin/sh
# The databases of Prefect and MLflow, each with an owner of its own: run once, when PostgreSQL's folder is new.
set -eu
secrets=${SECRETS_DIR:-/run/secrets}
prefect=$(cat "$secrets/prefect_database")
mlflow=$(cat "$secrets/mlflow_database")
psql -q -v ON_ERROR_STOP=1 -U "${POSTGRES_USER:-postgres}" -d postgres << SQL
CREATE ROLE prefect LOGIN PASSWORD '$prefect';
CREATE ROLE mlflow LOGIN PASSWORD '$mlflow';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_users OWNER mlflow;
REVOKE CONNECT ON DATABASE prefect, mlflow, mlflow_users FROM PUBLIC;
SQL

#!/bin/sh
# Start one part of the stack with its secrets; refuse secrets that are empty, short or known to everybody.
#
#   start.sh database | store | buckets | prefect | mlflow | worker | run COMMAND ...
#
# `prefect upgrade` and `mlflow upgrade` bring the databases to a new release and end.
# Containers run it with secrets in /run/secrets; `make stack-test` runs it without containers.
set -eu

secrets=${SECRETS_DIR:-/run/secrets}
here=${LISTEN:-0.0.0.0}

refuse() {
  echo "start.sh: $1" >&2
  exit 78
}

# The content of a secret's file. Letters, digits, - and _ need no quoting in an address or a file.
secret() {
  [ -r "$secrets/$1" ] || refuse "the secret $1 is missing: run docker/make_secrets.sh"
  value=$(cat "$secrets/$1")
  case "$value" in
    '') refuse "the secret $1 is empty: run docker/make_secrets.sh" ;;
    *[!A-Za-z0-9_-]*) refuse "the secret $1 holds other signs than letters, digits, - and _" ;;
    *changeme* | *password* | *minioadmin* | *postgres* | *prefect* | *mlflow* | *secret* | *example* | 12345*)
      refuse "the secret $1 is one that everybody knows: run docker/make_secrets.sh" ;;
  esac
  [ "${#value}" -ge 16 ] || refuse "the secret $1 is shorter than 16 signs: run docker/make_secrets.sh"
  printf %s "$value"
}

# Who calls the servers: workers, and commands that are typed.
as_client() {
  prefect_password=$(secret prefect_password)
  MLFLOW_TRACKING_PASSWORD=$(secret mlflow_password)
  as_user_of_the_store
  export PREFECT_API_AUTH_STRING="admin:$prefect_password" MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD
}

as_user_of_the_store() {
  AWS_ACCESS_KEY_ID=$(secret store_key)
  AWS_SECRET_ACCESS_KEY=$(secret store_secret)
  export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
}

database() {
  echo "${POSTGRES_HOST:-postgres}:${POSTGRES_PORT:-5432}"
}

part=${1:?name a part: database, store, buckets, prefect, mlflow, worker, run}
shift
case "$part" in
  database)
    for name in postgres_password prefect_database mlflow_database; do secret "$name" > /dev/null; done
    exec docker-entrypoint.sh postgres "$@"
    ;;
  store)
    MINIO_ROOT_USER=$(secret store_key)
    MINIO_ROOT_PASSWORD=$(secret store_secret)
    export MINIO_ROOT_USER MINIO_ROOT_PASSWORD
    exec minio server /data --address "$here:9000" "$@"
    ;;
  buckets)
    as_user_of_the_store
    exec python - "$@" << 'PYTHON'
import sys

import boto3

client = boto3.client("s3")
there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
for name in sys.argv[1:]:
    if name not in there:
        client.create_bucket(Bucket=name)
print("buckets:", *sys.argv[1:])
PYTHON
    ;;
  prefect)
    password=$(secret prefect_password)
    key=$(secret prefect_database)
    export PREFECT_SERVER_API_AUTH_STRING="admin:$password" PREFECT_API_AUTH_STRING="admin:$password"
    PREFECT_SERVER_DATABASE_CONNECTION_URL="postgresql+asyncpg://prefect:$key@$(database)/prefect"
    # The default of 5 and 10 seconds fails on a busy machine while the server starts.
    export PREFECT_SERVER_DATABASE_CONNECTION_URL PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT=60
    export PREFECT_SERVER_DATABASE_TIMEOUT=60
    [ "${1:-}" != upgrade ] || exec prefect server database upgrade --yes
    exec prefect server start --host "$here" --port "${PREFECT_PORT:-4200}" "$@"
    ;;
  mlflow)
    key=$(secret mlflow_database)
    MLFLOW_AUTH_ADMIN_PASSWORD=$(secret mlflow_password)
    MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret mlflow_session)
    as_user_of_the_store
    address="postgresql+psycopg2://mlflow:$key@$(database)"
    if [ "${1:-}" = upgrade ]; then
      python -m mlflow.server.auth db upgrade --url "$address/mlflow_users"
      exec mlflow db upgrade "$address/mlflow"
    fi
    umask 077
    settings=$(mktemp)
    cat > "$settings" << INI
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = $address/mlflow_users
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI
    # One process: a supervisor of several kills those that start slowly, again and again, on a busy machine.
    export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
    export MLFLOW_AUTH_ADMIN_USERNAME=admin MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
    export MLFLOW_AUTH_CONFIG_PATH="$settings" MLFLOW_BACKEND_STORE_URI="$address/mlflow"
    exec mlflow server --app-name basic-auth --host "$here" --port "${MLFLOW_PORT:-5000}" --workers 1 \
      --serve-artifacts --artifacts-destination "${ARTIFACTS:-s3://mlflow}" \
      --allowed-hosts "${MLFLOW_HOSTS:-mlflow:5000,localhost:5000,127.0.0.1:5000}" "$@"
    ;;
  worker)
    as_client
    exec prefect worker start --pool "${POOL:-elborank}" --type process --with-healthcheck "$@"
    ;;
  run)
    as_client
    exec "$@"
    ;;
  *) refuse "there is no part $part" ;;
esac

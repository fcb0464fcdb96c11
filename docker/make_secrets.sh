#!/bin/sh
# Make the secrets of the stack, each in a file of its own; those that are there stay.
#
#   docker/make_secrets.sh [FOLDER]        default: docker/secrets
#
# The folder is closed to others. The files in it can be read by the containers' users, who do not pass it.
set -eu
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
for name in postgres_password prefect_database mlflow_database prefect_password mlflow_password mlflow_session \
  store_key store_secret; do
  file=$folder/$name
  [ -s "$file" ] && continue
  head -c 18 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$file"
  chmod 444 "$file"
done
echo "secrets in $folder"

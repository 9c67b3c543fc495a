#!/bin/sh
# Starts one PostgreSQL server, which it sets up on its first start.
#
#   PGWEIR_ROLE         primary (default) or replica
#   PGWEIR_NODE         name of this node and of its slot; letters, digits and underscores
#   PRIMARY_HOST        replica: where the primary is
#   PRIMARY_PORT        replica: its port (5432)
#   LISTEN_PORT         this server's port (5432)
#   POSTGRES_PASSWORD   of the superuser `postgres`, the same on all nodes
#   APP_PASSWORD        of the role `app`, owner of the database `app` (app)
#   MONITOR_PASSWORD    of the role `pgweir`, member of pg_monitor (pgweir)
set -eu

data=/data/pgdata
node=${PGWEIR_NODE:-node0}
port=${LISTEN_PORT:-5432}
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
PATH=$bin:$PATH

make_primary() {
    : "${POSTGRES_PASSWORD:?must be set}"
    umask 077
    printf '%s' "$POSTGRES_PASSWORD" >/tmp/password
    initdb --pgdata="$data.new" --username=postgres --pwfile=/tmp/password \
        --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 >&2
    rm /tmp/password
    cat >>"$data.new/pg_hba.conf" <<ACCESS
host all         all all scram-sha-256
host replication all all scram-sha-256
ACCESS
    cat >>"$data.new/postgresql.conf" <<SETTINGS
listen_addresses = '*'
wal_level = replica
hot_standby = on
max_wal_senders = 20
max_replication_slots = 20
password_encryption = 'scram-sha-256'
# A replica notices within this time that its primary is back.
wal_retrieve_retry_interval = 500ms
# A replica that stays away does not fill the primary's disk.
max_slot_wal_keep_size = 1GB
SETTINGS
    # One command a line.
    postgres --single -D "$data.new" postgres >&2 <<ROLES
CREATE ROLE app LOGIN PASSWORD '${APP_PASSWORD:-app}'
CREATE DATABASE app OWNER app
CREATE ROLE pgweir LOGIN PASSWORD '${MONITOR_PASSWORD:-pgweir}' IN ROLE pg_monitor
ROLES
}

make_replica() {
    source="host=${PRIMARY_HOST:?must be set} port=${PRIMARY_PORT:-5432} user=postgres application_name=$node"
    export PGPASSWORD="${POSTGRES_PASSWORD:?must be set}"
    until pg_isready --quiet --dbname="$source"; do
        echo "waiting for the primary at $PRIMARY_HOST" >&2
        sleep 0.2
    done
    # The slot keeps WAL from now on (`true`), so the backup's start is still there when streaming
    # begins, whatever checkpoints other backups cause meanwhile.
    psql --quiet --dbname="$source dbname=postgres" >/dev/null --command="
        SELECT pg_create_physical_replication_slot('$node', true) WHERE NOT EXISTS
        (SELECT FROM pg_replication_slots WHERE slot_name = '$node')"
    # --write-recovery-conf keeps the password with the connection in postgresql.auto.conf.
    until pg_basebackup --pgdata="$data.new" --dbname="$source" --checkpoint=fast \
        --wal-method=stream --slot="$node" --write-recovery-conf >&2; do
        echo "the base backup failed: trying again" >&2
        rm -rf "$data.new"
        sleep 1
    done
}

# A first start that is cut short leaves only $data.new behind, and starts over.
start() {
    if [ ! -d "$data" ]; then
        rm -rf "$data.new"
        case ${PGWEIR_ROLE:-primary} in
        primary) make_primary ;;
        replica) make_replica ;;
        *)
            echo "PGWEIR_ROLE must be primary or replica" >&2
            exit 1
            ;;
        esac
        mv "$data.new" "$data"
    fi
    exec postgres -D "$data" -p "$port" -c cluster_name="$node" -c unix_socket_directories=/tmp
}

case ${1:-start} in
start) start ;;
healthy) exec pg_isready --quiet --host=127.0.0.1 --port="$port" ;;
*) exec "$@" ;;
esac

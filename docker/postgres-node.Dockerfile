# One PostgreSQL server, primary or streaming replica, for trying pgweir out and for its tests.
#
# BASE is any Debian or Ubuntu image; see compose.yaml for the variables of the entry point.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# No cluster is made or started by the packages: the entry point does that.
RUN mkdir -p /etc/postgresql-common/createcluster.d \
 && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/none.conf \
 && apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql \
 && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /data \
 && chown postgres:postgres /data

COPY postgres-node.sh /usr/local/bin/postgres-node
VOLUME /data
EXPOSE 5432
USER postgres
# Fast shutdown.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=2s --timeout=5s --retries=30 CMD ["sh", "/usr/local/bin/postgres-node", "healthy"]
ENTRYPOINT ["sh", "/usr/local/bin/postgres-node"]

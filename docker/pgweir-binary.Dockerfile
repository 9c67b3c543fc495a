# The proxy from a binary that exists already. The build context is a directory that holds it:
#
#   cargo build --release
#   docker build -f docker/pgweir-binary.Dockerfile -t pgweir target/release
#
# BASE must have a C library at least as new as that of the machine the binary was built on.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

COPY pgweir /usr/local/bin/pgweir
# Any unprivileged user will do: nothing is written.
USER nobody
EXPOSE 6432 9187
# SIGTERM drains.
STOPSIGNAL SIGTERM
ENTRYPOINT ["pgweir"]
CMD ["run", "--config", "/etc/pgweir/pgweir.yaml"]

# The proxy, built from source. The build context is the project's directory:
#
#   docker build -f docker/pgweir.Dockerfile -t pgweir .
#
# See pgweir-binary.Dockerfile for an image around a binary that exists already.
ARG RUST=rust:1-bookworm
ARG BASE=debian:bookworm-slim

FROM ${RUST} AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked

FROM ${BASE}
COPY --from=build /source/target/release/pgweir /usr/local/bin/pgweir
# Any unprivileged user will do: nothing is written.
USER nobody
EXPOSE 6432 9187
# SIGTERM drains.
STOPSIGNAL SIGTERM
ENTRYPOINT ["pgweir"]
CMD ["run", "--config", "/etc/pgweir/pgweir.yaml"]

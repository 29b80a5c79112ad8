# docker build -t lbd .
# docker run --network host --cap-drop ALL -v ./config.json:/etc/lbd/config.json:ro lbd
#
# With the host's network datagrams pass no address translation; OPERATIONS.md, "In a container", has more.

FROM rust:1-slim-trixie AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bins \
    && install -D -t /out target/release/lbd target/release/loadgen

FROM debian:trixie-slim
LABEL org.opencontainers.image.title="lbd" \
      org.opencontainers.image.description="A UDP load balancer that sends each request to the server with the shortest queue" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/ /usr/local/bin/
COPY tools/packaging/etc/config.json /etc/lbd/config.json
# Containers log to standard error.
RUN sed -i 's/"target": "journald"/"target": "stderr"/' /etc/lbd/config.json
# No capability is needed: within a container every port is free to bind.
RUN groupadd --system --gid 54000 lbd \
    && useradd --system --uid 54000 --gid lbd --no-create-home --home-dir / --shell /usr/sbin/nologin lbd \
    && install -d -o lbd -g lbd -m 0700 /run/lbd \
    && install -d -o lbd -g lbd -m 0750 /var/log/lbd
USER 54000:54000
WORKDIR /
EXPOSE 54001/udp 55080/tcp
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD lbd status --config /etc/lbd/config.json >/dev/null || exit 1
ENTRYPOINT ["lbd"]
CMD ["balancer", "--quiet", "--config", "/etc/lbd/config.json"]

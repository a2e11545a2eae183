# One image for both halves: `radnode gateway` (names, keys, sockets) and `radnode worker` (models, clean data only).
FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 10001 radnode
WORKDIR /opt/radnode
COPY requirements.txt ./
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir --requirement requirements.txt
COPY pyproject.toml README.md LICENSE config.py rules.example.yaml ./
COPY node node
COPY training training
COPY models models
RUN .venv/bin/pip install --no-cache-dir --no-deps --editable . && .venv/bin/python -m compileall -q config.py node
ENV PATH=/opt/radnode/.venv/bin:$PATH RADNODE_DATA_DIR=/var/lib/radnode
RUN install -d -o radnode -m 0700 /var/lib/radnode/identified && install -d -o radnode /var/lib/radnode/clean
USER radnode
# In the clear, or over TLS (web.tls_cert_file): the certificate names the host as people know it, not this address.
HEALTHCHECK --interval=30s --timeout=10s CMD \
    python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=4)" || \
    python -c "import ssl, urllib.request as u; u.urlopen('https://127.0.0.1:8080/healthz', timeout=4, context=ssl._create_unverified_context())"
ENTRYPOINT ["radnode"]
CMD ["serve"]

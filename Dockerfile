# syntax=docker/dockerfile:1
# docker build -t rolecall .   then   docker run rolecall --roles api
FROM python:3.13-slim AS build
COPY --from=ghcr.io/astral-sh/uv:0.13 /uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /app
COPY pyproject.toml uv.lock ./
# Neither the tools of development nor embedded servers: production brings its own PostgreSQL and RabbitMQ.
RUN uv sync --locked --no-dev --no-cache
COPY app.py checks.py config.toml ./
COPY clients clients
COPY commands commands
COPY db db
COPY migrations migrations
COPY roles roles
COPY schema schema
RUN .venv/bin/python -m compileall -q app.py checks.py clients commands db migrations roles schema

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin rolecall
COPY --from=build --chown=root:root /app /app
WORKDIR /app
USER rolecall
# Inside a container loopback is nobody's; what is published is the container's business. Who may call the API is not
# said here: it starts with APP_AUTH__MODE=api_key or jwt, or with APP_AUTH__ALLOW_ANONYMOUS=true.
ENV APP_API__BIND=0.0.0.0:8090 APP_OPS__BIND=0.0.0.0:8091 PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8090 8091
STOPSIGNAL SIGTERM
# Ready, not merely alive: in Docker that is what others wait for. Kubernetes has its own probes and ignores this.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8091/health/ready', timeout=4)"]
ENTRYPOINT ["python", "app.py"]
CMD ["--roles", "api,consume,schedule"]

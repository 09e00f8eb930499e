# The image of the lock service: see docs/service.md.
#
#   docker build -t microlock . && docker run -p 127.0.0.1:3000:3000 microlock serve --memory
FROM python:3.13-slim AS build
COPY . /source
RUN python -m venv /opt/microlock \
    && /opt/microlock/bin/pip install --no-cache-dir '/source[service]'

FROM python:3.13-slim
RUN useradd --system --no-create-home --shell /usr/sbin/nologin microlock
COPY --from=build /opt/microlock /opt/microlock
# In a container, loopback is not reachable from outside.
ENV PATH=/opt/microlock/bin:$PATH \
    MICROLOCK_HOST=0.0.0.0
USER microlock
WORKDIR /tmp
EXPOSE 3000
# Checks the health of the service from inside the container.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["python", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:3000/healthz', timeout=4)"]
ENTRYPOINT ["microlock"]
CMD ["serve"]

# Debian's Prometheus and Alertmanager, in place of the images of deploy/compose.yaml, which come
# from a registry: the commands and files of that page are theirs, too.
ARG BASE
FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends prometheus prometheus-alertmanager \
    && rm -rf /var/lib/apt/lists/*
ARG PROGRAM
ENV PROGRAM=${PROGRAM}
ENTRYPOINT ["/bin/sh", "-c", "exec $PROGRAM \"$@\"", "sh"]

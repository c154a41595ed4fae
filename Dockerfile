# Two images of one file: EXTRAS=worker (with torch) does jobs, EXTRAS= makes, watches and queries
# them. The last stage is the default; the stage `flower` is the monitor of docker-compose.yml.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/textmill
ENV PATH=/opt/textmill/bin:$PATH
WORKDIR /source
# `train` needs `worker` beside it: EXTRAS=worker,train.
ARG EXTRAS=worker
# Empty: torch comes from PyPI, which on Linux is the CUDA build. PyTorch's install page names the
# indexes of its other builds, such as the much smaller one for CPUs.
ARG TORCH_INDEX_URL=
# The dependencies are a layer of their own: a change of the source does not download torch again.
# The pattern lets the build go on without the file.
COPY pyproject.toml constraints.tx[t] ./
RUN touch constraints.txt && python -c "import os, tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = [name for name in os.environ['EXTRAS'].split(',') if name]; \
wanted = project['dependencies'] + [line for name in extras for line in project['optional-dependencies'][name]]; \
print('\n'.join(wanted))" > requirements.txt
RUN if [ -n "$TORCH_INDEX_URL" ] && grep -q '^torch[<>=~]' requirements.txt; then \
      pip install -c constraints.txt --index-url "$TORCH_INDEX_URL" "$(grep '^torch[<>=~]' requirements.txt)"; \
    fi
RUN pip install -c constraints.txt -r requirements.txt
# textmill/ holds one symbolic link per folder; they are kept, so each folder must be copied too.
COPY README.md LICENSE ./
COPY textmill textmill
COPY core core
COPY db db
COPY producer producer
COPY workers workers
RUN pip install --no-deps .

FROM python:${PYTHON_VERSION}-slim AS flower
RUN pip install --no-cache-dir "celery[redis]>=5.7,<5.8" flower==2.2.0 \
    && useradd --uid 10001 --create-home flower
USER flower
WORKDIR /home/flower
EXPOSE 5555
STOPSIGNAL SIGTERM
ENTRYPOINT ["celery"]
CMD ["flower"]

FROM python:${PYTHON_VERSION}-slim AS runtime
RUN useradd --uid 10001 --create-home textmill \
    && mkdir /data /models /work \
    && chown textmill:textmill /data /models /work
COPY --from=build /opt/textmill /opt/textmill
ENV PATH=/opt/textmill/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TEXTMILL_HOME=/data \
    HF_HOME=/models
USER textmill
WORKDIR /work
VOLUME ["/data", "/models"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["textmill"]
CMD ["worker"]

# `aga serve` on CPUs: docs/service.md. The versions are those of constraints.txt, which the tests run with.
FROM python:3.11.11-slim-bookworm AS build

WORKDIR /source
COPY constraints.txt ./
# PyTorch's build for CPUs: that of the package index brings CUDA's libraries.
RUN python -m venv /opt/aga \
    && grep '^torch==' constraints.txt > torch.txt \
    && /opt/aga/bin/pip install --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu \
        --requirement torch.txt
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY aga_model aga_model
RUN /opt/aga/bin/pip install --no-cache-dir --constraint constraints.txt '.[search,serve,milvus]'

FROM python:3.11.11-slim-bookworm

RUN useradd --uid 10001 --create-home aga \
    && mkdir /data \
    && chown aga:aga /data
COPY --from=build /opt/aga /opt/aga
COPY checkpoints/aga-small-rendered /models/aga-small-rendered
# Models that are named by their name on the Hub are kept with the galleries.
ENV PATH=/opt/aga/bin:$PATH \
    HF_HOME=/data/huggingface
USER 10001:10001
WORKDIR /data
# Galleries and models: mount images, read-only, under the path that they had when they were indexed.
VOLUME /data
EXPOSE 8000
# The token of the service is in AGA_TOKEN, which the client reads.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from aga_model.service import Client; Client('http://127.0.0.1:8000', timeout=8).health()"]
ENTRYPOINT ["aga"]
CMD ["serve", "--gallery", "/data/gallery", "--host", "0.0.0.0", "--port", "8000"]

# Everything that `make reproduce` and the notebooks need, on the processor: from a clone,
#   docker build --tag mdrepro .
#   docker run --rm --publish 8888:8888 mdrepro                   JupyterLab; it prints its address
#   docker run --rm --volume "$PWD/runs:/home/runner/mdrepro/papermill_runs" mdrepro make reproduce
FROM python:3.11-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

# Runs write as this user, and name the commit that they are of: the clone's .git comes along.
RUN useradd --create-home --uid 1000 runner
USER 1000
WORKDIR /home/runner/mdrepro
COPY --chown=1000:1000 . .
RUN make setup

ENV PATH="/home/runner/mdrepro/.venv/bin:$PATH"
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser", "notebooks"]

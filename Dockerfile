# An environment in which `make test` runs:
#
#   docker build --tag mindcv-ghost .
#   docker run --rm --shm-size=1g mindcv-ghost              # make test
#   docker run --rm --shm-size=1g mindcv-ghost make lint    # any other target
#
# Nobody has built this image yet; CONTRIBUTING.md says how its contents were checked.

FROM python:3.11-slim-bookworm AS tools

# make, g++   the targets; this package's C++ is built when it is first used
# chromium, npm  tests/export opens the web page in it; npm fetches onnxruntime-web
# dataset-fashion-mnist  tests/e2e/test_shipped.py validates the weights that come with the package
# git         the commit that run.json and the doctor's report name
# iproute2    tests/e2e/test_hosts.py makes two hosts of network namespaces; needs root
# libgomp1    MindSpore's threads (g++ would install it, too)
# openssh-client  Open MPI looks for ssh
# zsh, fish   tests/commands/test_completion.py completes in them
# For `make test-native` on ARM add g++-aarch64-linux-gnu and qemu-user; without them it skips tests.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        make g++ chromium dataset-fashion-mnist git iproute2 libgomp1 npm openssh-client zsh \
        fish \
    && rm -rf /var/lib/apt/lists/*

# Not root: files in a mounted folder then belong to a user. Open MPI works without root.
RUN useradd --create-home --uid 1000 --shell /bin/bash developer \
    && install --directory --owner developer --group developer /home/developer/mindcv-ghost
USER developer
WORKDIR /home/developer/mindcv-ghost


FROM tools AS project

COPY --chown=developer:developer . .
# MindSpore, Open MPI and the tests' packages.
RUN make .venv/.test
CMD ["make", "test"]

# The student alone, as FLARE23 runs it: no training, no workflow. docs/inference.md says how it is built and run.
#
# BASE is any image with Python 3.11 or newer; a PyTorch that it holds stays, whatever its version.
ARG BASE=python:3.11-slim
FROM ${BASE}

# Where pip finds another build of PyTorch (for CPUs alone it is a tenth of the size).
ARG PIP_EXTRA_INDEX_URL

WORKDIR /opt/flare23
COPY pyproject.toml setup.py constraints.txt config.yaml README.md LICENSE ./
COPY presets ./presets
COPY flare23_lib ./flare23_lib
RUN if python3 -c "import torch" 2> /dev/null; then sed -i "/^torch==/d" constraints.txt; fi \
    && python3 -m pip install --no-cache-dir -c constraints.txt .

# The folder of the model to deploy, relative to the repository.
ARG MODEL=results/models/student
COPY ${MODEL} /workspace/model
COPY predict.sh /workspace/predict.sh
RUN mkdir -p /workspace/inputs /workspace/outputs

WORKDIR /workspace
CMD ["sh", "predict.sh"]

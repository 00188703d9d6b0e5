#!/usr/bin/env bash
# Builds llama.cpp, the peer, from the source tree inside the package llama-cpp-python, into bench/.peers.
# Needs Python with pip, a C++ compiler, cmake (`pip install cmake` will do); about 18 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.3.36
mkdir -p .peers
cd .peers
if [ ! -d "llama_cpp_python-$version" ]; then
    python3 -m pip download --quiet --no-deps --no-build-isolation --no-binary :all: "llama-cpp-python==$version" ||
        python3 -m pip download --quiet --no-deps --no-binary :all: "llama-cpp-python==$version"
    tar xf "llama_cpp_python-$version.tar.gz"
fi
source=llama_cpp_python-$version/vendor/llama.cpp
rm -rf "$source/.git"
cmake -S "$source" -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF \
    -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
cmake --build build -j "$(nproc)" \
    --target llama-bench llama-batched-bench llama-quantize llama-server \
    llama-completion llama-perplexity llama-tokenize
echo "built: bench/.peers/build/bin"

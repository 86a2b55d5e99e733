"""The CUDA C++ sources that ship with nnkit, one idea a file; read through importlib.resources."""

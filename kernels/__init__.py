"""The attention kernel, the TensorRT plugin around it, its reference and its harness. Imports no torch.

fields           what an attention node holds, from vit_attention.toml: the one description of the operator
reference        the kernel's arithmetic in NumPy, step for step
error_model      how far the kernel may be from exact attention, element by element
variants         what one kernel is compiled with, and which variant serves a node
tiles            which tile the kernel takes
cuda/            the kernel itself
generate_header  plugin/vit_attention_spec.h, the C++ plugin's copy of the description and the tiles
plugin/          the TensorRT plugin in C++
python_plugin    the same plugin as a Python class
toolkit          where the CUDA toolkit's programs are
build            compiles the kernel to cubins, and checks what the compiler made of it
sass             reads the machine code of a cubin
mix              the table of what variants cost, from their machine code
launch           loads a cubin and starts it from Python
travel           what of all this goes into a bundle
harness/         runs the CUDA source on the CPU, on a played machine that watches it
"""

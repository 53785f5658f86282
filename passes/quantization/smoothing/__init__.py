"""Where the channels of a tensor can be made alike before one scale is put on all of them.

channels       who reads a tensor's channels
smooth_sites   where they can be scaled without changing the function
smooth_search  by which factors
"""

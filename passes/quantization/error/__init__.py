"""How much an error in a tensor matters at the model's outputs.

importance      the images on which that is measured
measured_error  what rounding a tensor or a weight does there
"""

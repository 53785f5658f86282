"""How much each feature matters.

facts     what is known of the features: weights, gradients, statistics of activations
readers   what the layers see that read them
removal   the linear algebra of removing inputs of a linear
criteria  one small class for each criterion
"""

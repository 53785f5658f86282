"""Which way each weight is rounded: not to the nearest, but so that the outputs stay.

held_out         which images find a rounding, and which judge it
rounding_sample  those images, read once
walk             a graph run step by step on a few batches at once
gptq             column by column: those not rounded yet make up for each error
layerwise        GPTQ through a graph, each linear on its inputs as INT8 makes them
unrounded        a stretch of a graph whose activations are clipped and not rounded
adaround         down or up, as a variable that training drives to one of the two
blockwise        AdaRound on one of the user's blocks at a time
"""

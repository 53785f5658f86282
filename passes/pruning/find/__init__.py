"""Which features can only go together.

tags      which feature each element of a tensor belongs to
flow      the features of a program and what binds them
layers    linears and convolutions: who makes features and who reads them
products  where features meet: elementwise, in products, in attention, in reductions
rules     how features pass through each operator
follow    pushes them through the graph
groups    what can be removed, and what cannot: the result
grouping  from the flow to the groups
blocks    whole residual blocks
unpack    packed q, k and v get a head split of their own
"""

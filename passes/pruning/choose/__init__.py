"""From scores and a budget to the units that go.

costs      what the program would cost without some features, without building it
ranking    units in the order in which they go, until the budget is met
selection  from names and indices to features, and back
"""

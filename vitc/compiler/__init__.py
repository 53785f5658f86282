"""The road from a model to a compiled model.

api               compile and plan: the road itself
choices           what a user says of the passes, checked as it is said
planning          passes, ONNX, report: a compilation without an engine
mixes             mixes of INT8 and floating point: compiled, scored, the fastest within a budget chosen
compiled          the compiled model: called here, saved for the device
task              the task of a compilation: the user's, or the model's own config's where it fits
structure         the structure that a model takes and returns
report            what a compilation did
attention_choice  the report's section on attention
"""

"""The road from a model to a compiled model.

api               compile and plan: the road itself
request           what a user asks for: one frozen record, refused where it contradicts itself
planning          passes, ONNX, report: a compilation without an engine
choosing          which model is the answer: as planned, the fastest mix, or floating point
mixes             mixes of INT8 and floating point: compiled, scored, the fastest within a budget chosen
compiled          the compiled model: called here, saved for the device
task              the task of a compilation: the user's, or the model's own config's where it fits
structure         the structure that a model takes and returns
agreement         whether the compiled model does what the given one does, and which pass is to blame if not
report            what a compilation did
exploring         the same for the eyes: its passes once more, watched by the explorer
attention_choice  the report's section on attention
"""

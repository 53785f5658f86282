"""From the user's model to a captured Program.

models              a model by name: timm:, hf:, torchvision:, file.py:factory, file.pt2
checkpoint          weights of one's own, from a file, into such a model
torchvision_import  makes torchvision importable beside a CPU build of torch
model_config        what a model's own config says: example inputs, preprocessing
model_task          what the same config says of the outputs: labels, boxes, thresholds
capture             torch.export into a Program
graph_inputs        which inputs are fixed, and what their dynamic sizes are called
export_errors       what export, or the model itself, says when it fails
"""

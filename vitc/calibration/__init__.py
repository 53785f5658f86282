"""The data that calibration and pruning look at, on its way from the user to the passes.

preprocessing  from a photograph to the model's input; a folder of images as batches
source         from what the user gave (tensors, a loader, a path) to a stream
stream         batches, checked as they come, that can be read again and again
samples        a stream with labels and a loss, for criteria that need gradients
findings       what calibration finds, by node: ranges, peaks, means, roundings, smoothing
observer       the protocol of those who watch a tensor while the stream is read
journal        what observers have found so far, kept in a folder so that a killed run goes on
"""

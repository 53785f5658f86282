"""What calibration images show of every tensor, in memory that does not grow with their number.

observe     one run of the stream, each tensor shown to its observers
statistics  a few numbers, or a bounded sample
peaks       the largest magnitude
histogram   all magnitudes, in bins
"""

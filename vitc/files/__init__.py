"""Files that a user or a stranger gives, and files that must be there whole: read with care, saved in one step.

plain        opening only what is a plain file, so that nothing waits for ever at a pipe
npy          reading NumPy's arrays without believing their headers
saving       replacing a file or a folder in one step; clearing what a killed process left
sealed_json  JSON with its own SHA-256 in it
"""

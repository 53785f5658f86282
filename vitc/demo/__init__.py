"""`python -m vitc.demo`: ViT-B/16 on photographs, and a small ViT trained here on handwritten digits.

digits    the small ViT and its images
__main__  compiles both for this CPU and for Jetson AGX Orin, and prints one table
"""

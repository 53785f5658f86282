"""`python -m vitc.demo`: ViT-B/16 on photographs, and a small ViT trained here on handwritten digits."""

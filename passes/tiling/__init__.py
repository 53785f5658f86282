"""pruned → tiled: attention as blocks of queries and keys.

tile_attention    scaled_dot_product_attention becomes vitc.attention, which never holds the N×N matrix; exact
window_attention  each token attends to its neighbourhood; lossy, and only where it is asked for
"""

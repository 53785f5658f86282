"""captured → canonical: one spelling for every idea. In the order of vitc.pipeline.default.CANONICAL:

drop_noops            what changes nothing in inference goes
fold_constants        what depends on weights alone is computed now
fold_batch_norm       BatchNorm goes into the layer before it
fold_layer_scale      a learned factor goes into the linear before it
recognize_gelu        a GELU written out becomes one operator
recognize_layer_norm  a LayerNorm likewise
batch_first           sequence-first linears become batch-first
fuse_attention        every spelling of attention becomes scaled_dot_product_attention
attention_4d          its operands get rank 4
simplify_mask         its mask becomes an additive bias, or goes
merge_qkv             three linears that feed it become one
order_qkv             one linear that feeds it gets its rows sorted
canonical             declares the graph canonical
"""

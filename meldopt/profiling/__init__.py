"""What needs a real model: routing, losses and similarity of its experts.

Everything here that runs a model needs the extra ``profile`` (torch, transformers,
safetensors, tokenizers) and is imported from its own module, so that the rest of the
project loads without it. The modules ``corpus``, ``quantize``, ``report``,
``sampling``, ``simhash`` and ``statistics`` need none of it.
"""

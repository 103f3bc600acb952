"""CLIP, written anew with OpenAI's parameter names: model, tokenizer, weights."""

ACTIVATIONS = ("quick_gelu", "gelu")

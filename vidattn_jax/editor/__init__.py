"""The attention editor: what people put right, kept and served."""

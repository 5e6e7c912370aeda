"""Tables of samples: one row per image-concept pair, ready for ``LoCETransformer``."""

"""Pictures: types, decoding, augmentation, models and the learners for them."""
